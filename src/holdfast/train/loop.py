"""The training loop, written once: it knows the shapes of methods and none of their names.

The batch at step t is a pure function of (seed, t). A checkpoint holds everything the next step
reads, so an interrupted run continues to the same bits.
"""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from holdfast.api import Enough, Loop, Loss
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role
from holdfast.data.tokens import Encoder, Tokens
from holdfast.disk import whole_file
from holdfast.errors import ConfigError, DataError, TrainingError
from holdfast.nn.passes import FlopMeter, Passes
from holdfast.nn.vectors import ParamVector, total
from holdfast.train.checkpoint import Checkpoints
from holdfast.train.optimiser import Optimiser

MicroBatches = list[dict[Role, Tokens]]
Gradient = Callable[[MicroBatches, int], tuple[ParamVector, Loss]]
Progress = Callable[[str, int, int], None]
MINUTES = 10.0
"""Minutes after which a checkpoint is written whatever the steps since; ours: no more is lost."""


class Stream:
    """The rows of every step: each role's rows in seeded epochs, without replacement in each.

    Under `mixed` batching all roles share the epochs; a role may then be missing from a step or a
    micro-batch, which holds it without rows.
    """

    def __init__(
        self, rows: Mapping[Role, Sequence[Example]], encoder: Encoder, loop: Loop, seed: int
    ) -> None:
        for role, some in rows.items():
            if not some:
                raise DataError(f"role {role.value}", "no rows to train on", "check the sources")
        self.seed = seed
        self._rows, self._encoder, self._loop = rows, encoder, loop
        self._orders: dict[tuple[str, int], list[int]] = {}
        self._all = [(role, row) for role, some in rows.items() for row in some]

    def _index(self, name: str, size: int, number: int) -> int:
        epoch, place = divmod(number, size)
        if (name, epoch) not in self._orders:
            order = list(range(size))
            random.Random(seed_of(self.seed, "order", name, epoch)).shuffle(order)
            self._orders[name, epoch] = order
        return self._orders[name, epoch][place]

    def _mixed(self, step: int) -> list[tuple[Role, Example]]:
        whole, size = self._loop.batch * len(self._rows), len(self._all)
        return [self._all[self._index("mixed", size, step * whole + i)] for i in range(whole)]

    def _by_role(self, some: Sequence[tuple[Role, Example]]) -> dict[Role, list[Example]]:
        return {role: [row for r, row in some if r is role] for role in self._rows}

    def examples(self, step: int) -> dict[Role, list[Example]]:
        """Give the rows of step `step` (from 0)."""
        if self._loop.batching == "mixed":
            return self._by_role(self._mixed(step))
        batch = self._loop.batch
        return {
            role: [some[self._index(role.value, len(some), step * batch + i)] for i in range(batch)]
            for role, some in self._rows.items()
        }

    def step(self, step: int) -> MicroBatches:
        """Give step `step` as micro-batches, every role (or the mixture) cut at the same places."""
        size = self._loop.micro_batch or self._loop.batch
        if self._loop.batching == "mixed":
            some, wide = self._mixed(step), size * len(self._rows)
            parts = [self._by_role(some[i : i + wide]) for i in range(0, len(some), wide)]
        else:
            chosen = self.examples(step)
            parts = [
                {role: rows[i : i + size] for role, rows in chosen.items()}
                for i in range(0, self._loop.batch, size)
            ]
        return [{role: self._encoder.batch(rows) for role, rows in p.items()} for p in parts]


def learning_rate(loop: Loop, step: int) -> float:
    """Give the rate of step `step` (from 0): linear warm-up, then the schedule down to 0."""
    if step < loop.warmup:
        return loop.lr * (step + 1) / loop.warmup
    if loop.schedule == "constant":
        return loop.lr
    done = (step - loop.warmup) / max(1, loop.steps - loop.warmup)
    if loop.schedule == "linear":
        return loop.lr * (1 - done)
    return loop.lr * 0.5 * (1 + math.cos(math.pi * done))


class TrainLog:
    """One JSON object a line; after an interruption, lines past the checkpoint are taken back."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, **values: object) -> None:
        """Add a line; one without a step, said again after an interruption, is not repeated."""
        if self._path is None:
            return
        line = json.dumps(values) + "\n"
        again = "step" not in values and self._path.exists()
        if again and line in self._path.read_text(encoding="utf-8", errors="replace"):
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    def rewind(self, part: str, step: int) -> None:
        """Drop the lines of `part` that stand past step `step`, and a line cut in the middle."""
        if self._path is None or not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if not isinstance(entry, dict) or not isinstance(entry.get("step", 0), int):
                continue
            if entry.get("part") != part or entry.get("step", 0) <= step:
                kept.append(line + "\n")
        with whole_file(self._path) as new:
            new.write_text("".join(kept), encoding="utf-8")


@contextmanager
def compute(precision: str, device: str) -> Generator[None]:
    """Run matrix products in the precision's dtype.

    Without autocast's cache of cast weights: a step that shifts weights between two passes would
    have the second read the first one's.
    """
    context = (
        torch.autocast(device, dtype=torch.bfloat16, cache_enabled=False)
        if precision == "fp32_master"
        else nullcontext()
    )
    with context:
        yield


def optimise(
    params: Mapping[str, Tensor],
    gradient: Gradient,
    stream: Stream,
    loop: Loop,
    *,
    part: str = "train",
    work: Path | None = None,
    log: TrainLog | None = None,
    progress: Progress | None = None,
    meter: FlopMeter | None = None,
    until: int | None = None,
    points: Mapping[int, Callable[[int], None]] | None = None,
    before: Callable[[int], None] | None = None,
    enough: Enough | None = None,
) -> int:
    """Train `params`, leaf tensors by name, in place by AdamW; give the steps taken.

    Args:
        gradient: (micro-batches, step) -> gradient of the whole step and its summed terms.
        part: names this run in the log and in the work folder.
        work: where checkpoints go; with one there, training continues from it.
        until: steps to take; None takes `loop.steps`, which is also where a schedule ends.
        points: step -> callback, called with the weights after that many steps.
        before, enough: called before and after each step; true of `enough` ends the training.

    Raises:
        ConfigError: `until` lies beyond a falling schedule.
        TrainingError: a loss or gradient is not finite; the state before that step is kept.
    """
    log, meter, points = log or TrainLog(None), meter or FlopMeter(), points or {}
    progress, before, enough = progress or _nothing, before or _nothing, enough or _never
    until, device = _end(loop, until, part), next(iter(params.values())).device.type
    optimiser = Optimiser(params, loop, stream.seed)
    keeper = _Keeper(work, part, params, optimiser, meter)
    start = keeper.load(min(points, default=until))
    log.rewind(part, start)
    points.get(start, _nothing)(start)
    until = start if start and enough(start) else until
    passes, pauses = Passes.of(loop), Pauses(loop.checkpoint_every)
    for done, step in enumerate(range(start, until), start + 1):
        with pauses.held() if work is not None else nullcontext():
            before(step)
            with meter.on(), compute(loop.precision, device), passes.on():
                found, loss = gradient(stream.step(step), step)
            value, norm = total(loss), found.norm()
            if (fault := _fault(loss, value, norm, stream, step)) is not None:
                keeper.save(step, wanted=step > start)
                raise TrainingError(f"{part} step {done}", *fault)
            optimiser.step(_clipped(found, norm, loop), rate := learning_rate(loop, step), step)
            del found  # or the next step's gradient is made beside it
            log.write(part=part, step=done, **_about(loss, value, norm, rate, meter))
        progress(part, done, until)
        ends = done == until or enough(done)
        keeper.save(done, wanted=pauses.due(done, ends))
        pauses.stop()
        points.get(done, _nothing)(done)
        if ends:
            return done
    return until


class Pauses:
    """Says after which steps to write a checkpoint, and lets a step end before a signal stops it.

    Args:
        every: steps between two checkpoints.
    """

    def __init__(self, every: int) -> None:
        self._every, self._last = every, time.monotonic()
        self._asked: int | None = None

    def due(self, done: int, ends: bool) -> bool:
        """Say whether to write a checkpoint after `done` steps; where training ends, always."""
        late = time.monotonic() - self._last >= 60 * MINUTES
        found = self._asked is not None or late or done % self._every == 0 or ends
        if found:
            self._last = time.monotonic()
        return found

    def stop(self) -> None:
        """Do what a signal that came during the step asks for: it ends the run."""
        if self._asked is not None:
            signal.raise_signal(self._asked)

    @contextmanager
    def held(self) -> Generator[None]:
        """Let Ctrl-C, and SIGTERM where something answers it, wait for the step's end.

        The second one does not wait. Only the main thread can do this; elsewhere nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for one, handler in before.items():
                signal.signal(one, handler)

        def ask(number: int, _frame: FrameType | None) -> None:
            restore()
            self._asked = number

        for one, handler in before.items():
            if callable(handler):
                signal.signal(one, ask)
        try:
            yield
        finally:
            restore()


class _Keeper:
    """The checkpoints of one run, or nothing where no folder is given."""

    def __init__(
        self,
        work: Path | None,
        part: str,
        params: Mapping[str, Tensor],
        optimiser: Optimiser,
        meter: FlopMeter,
    ) -> None:
        self._checkpoints = Checkpoints(work / part) if work is not None else None
        self._of = (params, optimiser, meter)

    def load(self, latest: int) -> int:
        """Continue from the newest checkpoint that is no later; give its step, or 0."""
        return self._checkpoints.load(*self._of, latest=latest) if self._checkpoints else 0

    def save(self, step: int, *, wanted: bool) -> None:
        """Write the state after a step, where that is wanted."""
        if self._checkpoints is not None and wanted:
            self._checkpoints.save(step, *self._of)


def _clipped(found: ParamVector, norm: float, loop: Loop) -> ParamVector:
    """Shorten a gradient in place that is longer than the loop allows."""
    if loop.clip is not None and norm > loop.clip:
        found.scale_(loop.clip / norm)
    return found


def _nothing(*_: object) -> None:
    """Stand where nobody is called."""


def _never(_step: int) -> bool:
    """Stand where nothing ends a training early."""
    return False


def _end(loop: Loop, until: int | None, part: str) -> int:
    """Give how many steps are taken in all; beyond a falling schedule there are none."""
    if until is None or until <= loop.steps or loop.schedule == "constant":
        return loop.steps if until is None else until
    raise ConfigError(
        f"{part}.loop.steps",
        f"the {loop.schedule} schedule ends after {loop.steps} steps, {until} are asked for",
        f"set it to {until} or more",
    )


def _fault(
    loss: Loss, value: float, norm: float, stream: Stream, step: int
) -> tuple[str, str] | None:
    """Give what is wrong with a step and what to do about it, or None."""
    if not any(term.count > 0 for term in loss.values()):
        return (
            "there is nothing to learn: no term counts a token, row or pair",
            "give rows with responses",
        )
    if math.isfinite(value) and math.isfinite(norm):
        return None
    rows = ", ".join(row.row_id for some in stream.examples(step).values() for row in some[:2])
    return (
        f"the loss is {value}, the gradient's norm {norm} (rows {rows}, ...)",
        "lower lr; the last checkpoint is kept",
    )


def _about(loss: Loss, value: float, norm: float, rate: float, meter: FlopMeter) -> dict[str, Any]:
    """Give what the log says of a step: with each term's mean, and the names of those left out."""
    found = {"loss": value, "norm": norm, "lr": rate, "flops": meter.total}
    counted = {name: term for name, term in loss.items() if term.count > 0}
    means = {f"{name}_mean": float(term.sum) / term.count for name, term in counted.items()}
    return {**found, "empty": [name for name in loss if name not in counted], **means}
