"""Have one judge read the answers of a trajectory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.api import Exchange, Judge, Verdict
from holdfast.api.verdicts import ask, unscored
from holdfast.data.example import Example
from holdfast.engine.session import Session
from holdfast.engine.store import write_lines
from holdfast.errors import StoreError
from holdfast.study.keys import canonical
from holdfast.study.nodes import Generate


class Judging:
    """Judges of one session, each asked once about the same exchange."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._verdicts: dict[int, dict[str, Verdict]] = {}

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
        answers = self.session.store.lines("generate", step.key, "exchanges.jsonl")
        if [row["uid"] for row in answers] != [row.uid for row in prompts.rows]:
            raise StoreError(
                str(self.session.store.path("generate", step.key)),
                "holds other prompts than its key says",
                "delete that folder and run again",
            )
        known = self._verdicts.setdefault(number, {})
        began = time.monotonic()

        def read(pairs: Sequence[tuple[Example, dict[str, Any]]]) -> list[dict[str, Any]]:
            verdicts = []
            for row, answer in pairs:
                told = exchange_of(row, answer)
                said = (told.system, told.prefill, told.response, told.finish_reason)
                same = canonical([row.uid, row.meta, *said])
                if same not in known:
                    known[same] = ask(judge, told)
                verdict = known[same]
                verdicts.append(
                    {
                        "uid": row.uid,
                        "score": verdict.score,
                        "outcome": verdict.outcome,
                        "reason": verdict.reason,
                        "raw": verdict.raw,
                    }
                )
            return verdicts

        pairs = list(zip(prompts.rows, answers, strict=True))
        rows = self.session.chunks(name, pairs, read, f"judge {judge.name()}")
        self.session.publish(
            "judge",
            name,
            {"judge": judge.identity(), "known": prompts.known},
            [step.key],
            {"unscored": sum(unscored(row["reason"], row["outcome"]) for row in rows)},
            began,
            lambda folder: write_lines(folder / "verdicts.jsonl", rows),
        )
        self.session.store.done(name)


def exchange_of(row: Example, answer: Mapping[str, Any]) -> Exchange:
    """Give what a judge reads of a prompt and its answer, as the model was asked."""
    return Exchange(
        example_uid=row.uid,
        system=answer.get("system", row.system),
        prompt=row.prompt,
        prefill=answer.get("prefill") or "",
        response=answer["response"],
        finish_reason=answer["finish_reason"],
        meta=row.meta,
    )
