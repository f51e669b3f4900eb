"""Have one judge read the answers of a trajectory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from holdfast.api import EvalPurpose, Exchange, Judge, Verdict
from holdfast.api.hearing import heard
from holdfast.api.verdicts import ask, unscored
from holdfast.data.example import Example
from holdfast.engine.session import Session
from holdfast.engine.store import Store, write_lines
from holdfast.errors import ConfigError, HoldfastError
from holdfast.study.keys import canonical
from holdfast.study.nodes import Generate
from holdfast.study.plan import Plan


def check_judges(plan: Plan, store: Store) -> None:
    """Refuse, before a study's first step, a judge that could not be opened after its last.

    Raises:
        ConfigError: what `Judge.check` refuses of a judge that has something to read.
    """
    done = store.keys("judge")
    waiting = {
        number
        for step in plan.generates.values()
        for number, name in step.judges.items()
        if name not in done
    }
    for number in sorted(waiting):
        try:
            plan.judges[number].check()
        except ConfigError as error:
            where = f"study.judges[{number}].{plan.judges[number].name()}.{error.where}"
            raise ConfigError(where, error.what, error.todo) from None


class Judging:
    """Judges of one session, each asked once about the same exchange.

    A judge is opened when it has something to read and stays open until another's turn, or until
    `close`: the engine gives all that waits for one judge before anything for the next.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._verdicts: dict[int, dict[str, Verdict]] = {}
        self._life = ExitStack()
        self._open: int | None = None
        self._failed: dict[int, HoldfastError] = {}

    def close(self) -> None:
        """Close the judge that is open, if one is."""
        self._open = None
        self._life.close()

    def _reader(self, number: int) -> Judge:
        """Give a judge, open; the memory of the judge and the model before it goes first.

        Raises:
            JudgeError: it cannot be opened. That is tried once: each of its steps then says so.
        """
        judge = self.session.plan.judges[number]
        if number in self._failed:
            raise self._failed[number]
        if self._open != number:
            self.close()
            self.session.forget()
            try:
                self._life.enter_context(judge.opened(self.session.device))
            except HoldfastError as error:
                self._failed[number] = error
                raise
            self._open = number
        return judge

    def _ask(self, number: int, exchanges: list[Exchange]) -> list[Verdict]:
        """Have a judge read exchanges; one that cannot go on is asked nothing more."""
        reader = self._reader(number)
        try:
            return ask(reader, exchanges)
        except HoldfastError as error:
            self._failed[number] = error
            raise

    def judge(self, number: int, own: str) -> None:
        """Have one judge read every answer of a trajectory that it has not read yet."""
        for point in self.session.plan.trajectories[own].points.values():
            for step in point.asked.values():
                name = step.judges.get(number)
                if name is not None and not self.session.store.has("judge", name):
                    self._judge(number, name, step)

    def _judge(self, number: int, name: str, step: Generate) -> None:
        judge: Judge = self.session.plan.judges[number]
        prompts = self.session.plan.prompts[step.evaluation]
        rows = [row for row in prompts.rows for _ in range(step.draws)]
        uids = [row.uid for row in rows]
        answers = self.session.store.joined("generate", step.key, "exchanges.jsonl", uids)
        label = f"judge {judge.name()}"
        known = self._verdicts.setdefault(number, {})
        purpose = prompts.set.purpose if judge.reads_purpose else None
        began = time.monotonic()

        def read(part: Sequence[tuple[int, Example, dict[str, Any]]]) -> list[dict[str, Any]]:
            first, total = part[0][0], len(rows)
            given = [exchange_of(row, answer, purpose) for _, row, answer in part]
            same = [_same(exchange) for exchange in given]
            new = {
                name: exchange
                for name, exchange in zip(same, given, strict=True)
                if name not in known
            }
            if new:
                with heard(lambda n: self.session.progress(label, first + n, total), len(new)):
                    said = self._ask(number, list(new.values()))
                known.update(zip(new, said, strict=True))
            return [
                {
                    "uid": row.uid,
                    "score": known[name].score,
                    "outcome": known[name].outcome,
                    "reason": known[name].reason,
                    "raw": known[name].raw,
                }
                for name, (_, row, _) in zip(same, part, strict=True)
            ]

        numbered = list(zip(range(len(rows)), rows, answers, strict=True))
        said = self.session.chunks(name, numbered, read, label)
        self.session.publish(
            "judge",
            name,
            {"judge": judge.identity(), "known": prompts.known},
            [step.key],
            {"unscored": sum(unscored(row["reason"], row["outcome"]) for row in said)},
            began,
            lambda folder: write_lines(folder / "verdicts.jsonl", said),
        )
        self.session.store.done(name)


def _same(exchange: Exchange) -> str:
    """Give what two exchanges have in common that a judge cannot tell apart."""
    said = (exchange.system, exchange.prefill, exchange.response, exchange.finish_reason)
    return canonical([exchange.example_uid, exchange.meta, *said])


def exchange_of(
    row: Example, answer: Mapping[str, Any], purpose: EvalPurpose | None = None
) -> Exchange:
    """Give what a judge reads of a prompt and its answer, as the model was asked.

    Args:
        purpose: what the prompt's set is for, if the judge reads that.
    """
    return Exchange(
        example_uid=row.uid,
        system=answer.get("system", row.system),
        prompt=row.prompt,
        prefill=answer.get("prefill") or "",
        response=answer["response"],
        finish_reason=answer["finish_reason"],
        meta=row.meta if purpose is None else {**row.meta, "purpose": purpose.value},
        turns=row.turns,
    )
