"""What a step does when its turn comes: harden, attack and answer, judge.

Nothing here knows other steps: each reads finished artefacts and publishes its own.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from holdfast.api import Exchange, Judge, Method, PromptAttack, Verdict, environment, set_threads
from holdfast.api.fields import Fields
from holdfast.api.registry import origin
from holdfast.api.verdicts import ask, unscored
from holdfast.data.example import Example
from holdfast.data.tokens import Encoder
from holdfast.engine.states import STATES
from holdfast.engine.store import Store, write_json, write_lines
from holdfast.errors import HoldfastError, ModelError, StoreError
from holdfast.study.file import HARM_SETS
from holdfast.study.keys import canonical, key
from holdfast.study.nodes import Defend, Generate, Look, Point, Released, Start, Trajectory
from holdfast.study.plan import Plan

MARKER = "holdfast.json"
"""Beside every checkpoint made here: where it comes from, and whether it was attacked."""

Progress = Callable[[str, int, int], None]


@cache
def git_commit() -> str | None:
    """Give the commit this package is checked out at, if it is."""
    folder = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def peak_mib() -> int:
    """Give the most memory this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 if sys.platform != "darwin" else 1024**2)


class Runner:
    """Runs steps in this process, one at a time.

    The model loaded last is kept while its weights are as they were: asking the released model
    and attacking it costs one load.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        *,
        threads: int = 1,
        device: str = "cpu",
        keep_weights: bool = False,
        progress: Progress | None = None,
    ) -> None:
        set_threads(threads)
        _quiet()
        self.plan, self.store = plan, store
        self.threads, self.device, self.keep_weights = threads, device, keep_weights
        self.progress = progress or (lambda *_: None)
        self._loaded: tuple[Path, Any, Any] | None = None
        self._verdicts: dict[int, dict[str, Verdict]] = {}

    def defend(self, key: str) -> None:
        """Harden one model with one defence and publish its checkpoint."""
        from holdfast import nn, train

        step = self.plan.defends[key]
        began = time.monotonic()
        released = Released(step.start, step.before)
        model, tokenizer = self._take(released)
        work = self.store.work(key)
        done = train.harden(
            step.method,
            model,
            Encoder(
                tokenizer,
                step.start.entry.format,
                append_eos=step.start.entry.append_eos,
                max_length=_context(model),
                where=step.label,
            ),
            self.plan.pool,
            seed=step.seed,
            work=work,
            sources=self._sources(getattr(step.method, "needs", ())),
            progress=self.progress,
        )

        def fill(folder: Path) -> None:
            nn.save(done.model, tokenizer, folder)
            write_json(folder / MARKER, self._provenance(step))
            write_json(folder / "diagnostics.json", done.diagnostics)
            if (work / "log.jsonl").is_file():
                shutil.copyfile(work / "log.jsonl", folder / "log.jsonl")
            done.save_state(folder)

        result = {"steps": done.steps, "flops": done.flops, "diagnostics": done.diagnostics}
        self._publish("defend", key, step.config, step.inputs, result, began, fill)
        self.store.done(key)

    def measure(self, key: str) -> None:
        """Take a defence's diagnostic on the model of plain refusal fine-tuning."""
        from holdfast import nn, train

        step = next(one for one in self.plan.measures.values() if one.key == key)
        began = time.monotonic()
        method, start = step.step.method, step.step.start
        model, tokenizer = self._take(Released(step.beside.start, step.beside))
        found = train.measure(
            method,
            model,
            Encoder(
                tokenizer,
                start.entry.format,
                append_eos=start.entry.append_eos,
                max_length=_context(model),
                where=step.label,
            ),
            self.plan.pool,
            seed=step.step.seed,
            sources={
                "start": nn.tensors(step.beside.start.files.folder),
                "kept": nn.tensors(self.store.path("defend", step.step.key) / "state"),
                **self._sources(getattr(method, "needs", ())),
            },
        )
        self._publish(
            "measure",
            key,
            step.config,
            step.inputs,
            {"diagnostics": found},
            began,
            lambda folder: write_json(folder / "diagnostics.json", found),
        )

    def attack(self, own: str) -> None:
        """Run one trajectory (or none: the model as released) and ask at every point of it."""
        trajectory = self.plan.trajectories[own]
        missing = {
            budget: point
            for budget, point in sorted(trajectory.points.items())
            if any(not self.store.has("generate", step.key) for step in point.asked.values())
            or any(not self.store.has("analyse", look.key) for look in point.looks)
        }
        missing = self._kept(trajectory, missing)
        if not missing:
            self.store.done(trajectory.key)
            return
        start = trajectory.released.start
        if trajectory.attack is None:
            model, tokenizer = self._take(trajectory.released, keep=True)
            (point,) = missing.values()
            self._ask(model, tokenizer, start, point, {"steps": 0, "flops": 0.0})
            return
        if isinstance(trajectory.attack, PromptAttack):
            model, tokenizer = self._take(trajectory.released, keep=True)
            for point in missing.values():
                spent = {"steps": 0, "flops": 0.0}
                self._ask(model, tokenizer, start, point, spent, trajectory.attack)
            return
        from holdfast import train

        method = trajectory.attack
        model, tokenizer = self._take(trajectory.released)

        def on_point(budget: float, info: Any) -> None:
            point = missing[budget]
            spent = {"steps": info.steps, "flops": info.flops}
            if self.keep_weights and method.weights_alone:
                self._keep(model, tokenizer, trajectory, point, spent)
            self._ask(model, tokenizer, start, point, spent)

        train.attack(
            trajectory.attack,
            model,
            Encoder(
                tokenizer,
                start.attack_format,
                append_eos=start.entry.append_eos,
                max_length=_context(model),
                where=trajectory.label,
            ),
            self.plan.attack_pool,
            seed=trajectory.seed,
            work=self.store.work(trajectory.key),
            sources=self._sources(trajectory.attack.needs),
            points=list(missing),
            on_point=on_point,
            progress=self.progress,
        )
        self.store.done(trajectory.key)

    def judge(self, number: int, own: str) -> None:
        """Have one judge read every answer of a trajectory that it has not read yet."""
        for point in self.plan.trajectories[own].points.values():
            for step in point.asked.values():
                name = step.judges.get(number)
                if name is not None and not self.store.has("judge", name):
                    self._judge(number, name, step)

    # What the steps share.

    def _take(self, released: Released, *, keep: bool = False) -> tuple[Any, Any]:
        """Give a model whose weights are those on disk; forget it unless it stays as it is."""
        from holdfast import nn

        folder = folder_of(released, self.store)
        if released.last is None:
            same(released.start)
        if self._loaded is None or self._loaded[0] != folder:
            self._loaded = None  # the last one's memory goes first
            self._loaded = (folder, *nn.load(folder, device=self.device))
        _, model, tokenizer = self._loaded
        if not keep:
            self._loaded = None
        return model, tokenizer

    def _sources(self, needs: Sequence[str]) -> dict[str, Any]:
        from holdfast import nn

        if "original" not in needs or self.plan.original is None:
            return {}
        return {"original": nn.tensors(self.plan.original.files.folder)}

    def _ask(
        self,
        model: Any,
        tokenizer: Any,
        start: Start,
        point: Point,
        spent: Mapping[str, Any],
        by: PromptAttack | None = None,
    ) -> None:
        """Ask a point's missing prompt sets and keep the states that are wanted of it.

        Training's random numbers stay as they were.
        """
        import torch

        state = torch.get_rng_state()
        encoder = Encoder(tokenizer, start.evaluation_format, where="evaluation")
        try:
            for step in point.asked.values():
                if not self.store.has("generate", step.key):
                    self._generate(model, encoder, step, spent, by)
            for look in point.looks:
                if not self.store.has("analyse", look.key):
                    self._look(model, encoder, point, look, spent)
        finally:
            torch.set_rng_state(state)

    def _generate(
        self,
        model: Any,
        encoder: Encoder,
        step: Generate,
        spent: Mapping[str, Any],
        by: PromptAttack | None,
    ) -> None:
        prompts = self.plan.prompts[step.evaluation]
        changed = by if prompts.set in HARM_SETS else None
        began = time.monotonic()

        def answer(rows: Sequence[Example]) -> list[dict[str, Any]]:
            if prompts.chosen:
                from holdfast import evaluate

                picked = evaluate.choose(model, encoder, rows)
                return [
                    {"uid": row.uid, "choice": choice, "response": str(row.meta["options"][choice])}
                    for row, choice in zip(rows, picked, strict=True)
                ]
            from holdfast import evaluate

            prefills: list[str] = []
            if changed is not None:
                asked = [changed.ask(row) for row in rows]
                rows = [
                    replace(row, system=system)
                    for row, (system, _) in zip(rows, asked, strict=True)
                ]
                prefills = [prefill for _, prefill in asked]
            done = evaluate.generate(
                model,
                encoder,
                rows,
                self.plan.study.generation,
                seed=step.config["seed"],
                prefills=prefills,
            )
            return [
                {
                    "uid": row.uid,
                    "system": row.system,
                    "prompt": row.prompt,
                    "response": one.text,
                    "finish_reason": one.finish_reason,
                    "tokens": one.tokens,
                    **({"prefill": prefill} if prefill else {}),
                }
                for row, one, prefill in zip(rows, done, prefills or [""] * len(rows), strict=True)
            ]

        label = f"ask {prompts.set}"
        rows = self._chunks(step.key, prompts.rows, answer, label)
        self._publish(
            "generate",
            step.key,
            step.config,
            [step.point],
            dict(spent),
            began,
            lambda folder: write_lines(folder / "exchanges.jsonl", rows),
        )
        self.store.done(step.key)

    def _look(
        self, model: Any, encoder: Encoder, point: Point, look: Look, spent: Mapping[str, Any]
    ) -> None:
        """Keep the states in which the analysis' prompts leave the model."""
        from safetensors.torch import save_file

        from holdfast import nn

        assert self.plan.looking is not None
        began = time.monotonic()
        rows = self.plan.looking.rows
        states = nn.opening_states(model, encoder, rows, look.layers)
        self._publish(
            "analyse",
            look.key,
            look.config,
            [point.key],
            spent,
            began,
            lambda folder: save_file({"states": states}, folder / STATES),
        )

    def _judge(self, number: int, name: str, step: Generate) -> None:
        judge: Judge = self.plan.judges[number]
        prompts = self.plan.prompts[step.evaluation]
        answers = self.store.lines("generate", step.key, "exchanges.jsonl")
        if [row["uid"] for row in answers] != [row.uid for row in prompts.rows]:
            raise StoreError(
                str(self.store.path("generate", step.key)),
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
        rows = self._chunks(name, pairs, read, f"judge {judge.name()}")
        self._publish(
            "judge",
            name,
            {"judge": judge.identity(), "known": prompts.known},
            [step.key],
            {"unscored": sum(unscored(row["reason"], row["outcome"]) for row in rows)},
            began,
            lambda folder: write_lines(folder / "verdicts.jsonl", rows),
        )
        self.store.done(name)

    def _chunks(
        self,
        key: str,
        rows: Sequence[Any],
        make: Callable[[Sequence[Any]], list[dict[str, Any]]],
        label: str,
    ) -> list[dict[str, Any]]:
        """Make a step's rows chunk by chunk, each kept; one chunk is the artefact itself."""
        size = self.plan.study.chunk
        if len(rows) <= size:
            return make(rows)
        done: list[dict[str, Any]] = []
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            name = f"rows-{size}-{first // size:05d}.jsonl"
            done += self.store.chunk(key, name, lambda part=part: make(part))
            self.progress(label, first + len(part), len(rows))
        return done

    def _publish(
        self,
        kind: str,
        key: str,
        config: Mapping[str, Any],
        inputs: Sequence[str],
        result: Mapping[str, Any],
        began: float,
        fill: Callable[[Path], None],
    ) -> None:
        manifest = {
            "config": dict(config),
            "inputs": list(inputs),
            "result": dict(result),
            "environment": self._environment,
            "device": self.device,
            "git": git_commit(),
            "seconds": round(time.monotonic() - began, 3),
            "peak_mib": peak_mib(),
        }
        self.store.publish(kind, key, manifest, fill)

    @cached_property
    def _environment(self) -> dict[str, Any]:
        return environment(self.threads)

    def _provenance(self, step: Defend) -> dict[str, Any]:
        chain = Released(step.start, step).chain
        return {
            "made_by": "holdfast",
            "model": step.start.entry.path,
            "format": step.start.entry.format,
            "defences": [one.method.identity() for one in chain],
            "from": [origin("defence", one.method.name()) for one in chain],
            "seed": step.seed,
            "key": step.key,
            "attacked": False,
        }

    # Attacked weights that are kept on purpose.

    def _keep(
        self,
        model: Any,
        tokenizer: Any,
        trajectory: Trajectory,
        point: Point,
        spent: Mapping[str, Any],
    ) -> None:
        from holdfast import nn

        def fill(folder: Path) -> None:
            nn.save(model, tokenizer, folder)
            marker = {"made_by": "holdfast", "attacked": True, "budget": point.budget}
            write_json(folder / MARKER, {**marker, "trajectory": dict(trajectory.config)})

        self._publish(
            "point",
            point.key,
            {**trajectory.config, "budget": point.budget},
            [trajectory.released.key],
            spent,
            time.monotonic(),
            fill,
        )

    def _kept(self, trajectory: Trajectory, missing: dict[float, Point]) -> dict[float, Point]:
        """Ask the points whose weights were kept; give those that must be replayed."""
        from holdfast import nn

        left = {}
        for budget, point in missing.items():
            if trajectory.attack is None or not self.store.has("point", point.key):
                left[budget] = point
                continue
            folder = self.store.path("point", point.key)
            held = getattr(trajectory.attack, "precision", "fp32")
            model, tokenizer = nn.load(folder, precision=held, device=self.device)
            spent = self.store.manifest("point", point.key)["result"]
            self._ask(model, tokenizer, trajectory.released.start, point, spent)
        return left


def folder_of(released: Released, store: Store) -> Path:
    """Give where a released model's checkpoint lies."""
    if released.last is None:
        return released.start.files.folder
    return store.path("defend", released.last.key)


def same(start: Start) -> None:
    """Refuse a start model whose files are not those the plan was made with."""
    if key("model", files=start.files.identity()) != start.key:
        raise ModelError(
            f"model '{start.name}'", "its files changed since the plan was made", "run again"
        )


def _context(model: Any) -> int | None:
    """Give the longest row the model was made for, where its config says."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


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


def failed(label: str, error: BaseException) -> HoldfastError:
    """Give any error of a step as one line; a known one keeps its own words."""
    if isinstance(error, HoldfastError):
        return type(error)(f"{label}: {error.where}", error.what, error.todo)
    what = f"{type(error).__name__}: {error}".split("\n")[0]
    return HoldfastError(label, what[:300], "see last-error.txt in the store; report it")


def method_text(method: Fields, usual: Fields | None = None) -> str:
    """Give a method as a reader sees it: its name and the fields that are not its default.

    `usual` is what a nested group is when its method says nothing.
    """
    shown = []
    for name, info in type(method).model_fields.items():
        value = getattr(method, name)
        default = getattr(usual, name) if usual is not None else info.default
        if value == default:
            continue
        if isinstance(value, Fields):
            inner = default if isinstance(default, Fields) else None
            shown.append(f"{name}=({method_text(value, inner)})")
        else:
            shown.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    inside = ", ".join(shown)
    if not isinstance(method, Method):
        return inside
    return f"{method.name()}({inside})" if inside else method.name()


def _quiet() -> None:
    """Keep the libraries' own bars and notes off the screen; errors still show."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
