"""What is left of a study will cost: time, memory, judges' tokens and money, disk. Nothing is run.

Time is counted FLOPs over a stated speed (`cards`), what settles each step, and, where answers are
written token by token, the reading of weights. Answers are taken to be as long as they may be, so
what hangs on them is a bound. docs/estimate.md says what is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from holdfast.api import Attack, Chain, Effort, Method, Rows, Trainable, WeightAttack
from holdfast.engine.cards import Card
from holdfast.engine.fit import EDITED
from holdfast.engine.fits import Step, check_fits
from holdfast.engine.judgecost import JudgeCost, judge_costs
from holdfast.engine.sizes import Counter, step_rows
from holdfast.engine.store import Store
from holdfast.errors import DataError
from holdfast.evaluate.sampler import CACHE
from holdfast.nn import memory
from holdfast.nn.shapes import Shape
from holdfast.study.drawing import drawn
from holdfast.study.hosting import Hosted
from holdfast.study.keys import digest
from holdfast.study.nodes import Generate, Start
from holdfast.study.plan import Plan
from holdfast.study.standins import StandIns

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a weight in a saved checkpoint."""
READ = 1e9
"""Bytes of a checkpoint read or written a second; ours, a local disk."""
LETTER, ROW = 4.5, 400
"""Bytes of an answer's token in the store, and of what is kept beside an answer; ours."""


@dataclass(slots=True)
class Line:
    """What one kind of step comes to."""

    number: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    memory: float = 0.0
    """Bytes of the largest step."""

    def add(self, flops: float, seconds: float, size: float) -> None:
        """Add a step."""
        self.number += 1
        self.flops += flops
        self.seconds += seconds
        self.memory = max(self.memory, size)


@dataclass(slots=True)
class Estimate:
    """What is left of a study comes to on one device.

    `lines` by kind of step; `fits` says, for each method that trains, under what it fits into each
    card; `disk` in bytes by what it is; `unchecked` what nobody looked at.
    """

    card: Card
    lines: dict[str, Line] = field(default_factory=dict)
    fits: dict[str, tuple[float, Mapping[str, str]]] = field(default_factory=dict)
    judges: list[JudgeCost] = field(default_factory=list)
    disk: dict[str, float] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Give the device's time in all."""
        return sum(line.seconds for line in self.lines.values())

    @property
    def flops(self) -> float:
        """Give all FLOPs."""
        return sum(line.flops for line in self.lines.values())


@dataclass(frozen=True, slots=True)
class Training:
    """A method's loop on a model: what comes before, each step, and the step's memory."""

    before: Effort
    each: Effort
    tokens: float
    step: Step

    def flops(self, steps: int) -> float:
        """Give the FLOPs that the meter would count in so many steps."""
        of = self.step.of
        return (self.before + self.each * steps).flops(of.body, of.head)

    def seconds(self, steps: int, on: Card) -> float:
        """Give the time of so many steps."""
        of, loop = self.step.of, self.step.loop
        speed = on.speed(memory.compute_width(loop))
        again = self.each.body / 3 if loop.checkpoint_activations else 0.0
        flops = self.each.flops(of.body, of.head) + 2 * again * of.body
        parts = math.ceil(loop.batch / (loop.micro_batch or loop.batch))
        passes = self.each.body / max(1.0, self.tokens) * parts
        launched = passes * of.layers * on.launch / 2
        settled = on.settling * memory.trained(of, loop) / on.bandwidth
        once = self.before.flops(of.body, of.head) / speed
        return once + steps * (max(flops / speed, launched) + settled)


class Estimator:
    """Goes through what is left of a plan and adds up what it costs on one device."""

    def __init__(self, plan: Plan, store: Store, on: Card, stand_ins: StandIns) -> None:
        self.plan, self.store, self.on = plan, store, on
        self.counter = Counter(stand_ins.lengths)
        self.found = Estimate(on)
        self._trainings: dict[str, Training] = {}
        self._stand_ins = stand_ins

    def run(self) -> Estimate:
        """Give what is left.

        Raises:
            DataError: a context too short. ModelError: a step that fits into no card.
        """
        self._contexts()
        self._defend()
        answers = self._attack()
        found, plan = self.found, self.plan
        found.judges = judge_costs(plan, self.store, self.on, self.counter)
        for cost in found.judges:
            if cost.calls and cost.flops:
                line = found.lines.setdefault("judge", Line())
                line.add(cost.flops, cost.seconds, cost.memory)
        found.disk["answers and verdicts"] = answers
        found.unchecked = [
            *self._stand_ins.missing,
            *(cost.unchecked for cost in found.judges if cost.unchecked),
            *(
                f"model {name}: no tokenizer at hand, a token taken to be four letters"
                for name in sorted(self.counter.guessed)
            ),
        ]
        return found

    def _line(self, kind: str) -> Line:
        return self.found.lines.setdefault(kind, Line())

    def _contexts(self) -> None:
        """Refuse a model whose context has no room for a prompt and its answer."""
        answer = self.plan.study.generation.max_new_tokens
        asked = {track.released.start.name: track.released.start for track in self.plan.tracks}
        for start in asked.values():
            context = memory.shape(start.files).context
            for i, prompts in enumerate(self.plan.prompts):
                of = self.counter.of(start, prompts.rows)
                room = of.prompt + (answer if prompts.sampled else of.response)
                if context is not None and room > context:
                    raise DataError(
                        f"study.evaluation[{i}]",
                        f"{of.prompt:.0f} tokens of a prompt and {room - of.prompt:.0f} of an "
                        f"answer do not fit into the {context} of model '{start.name}'",
                        "lower generation.max_new_tokens, or take a model with more context",
                    )

    def _training(self, start: Start, method: Trainable, seed: int) -> Training:
        same = digest([start.key, method.identity()])
        if same not in self._trainings:
            pool = self.plan.attack_pool if isinstance(method, Attack) else self.plan.pool
            read = drawn(method, pool, seed)
            rows, lengths = step_rows(method, read, lambda some: self.counter.of(start, some))
            of = memory.shape(start.files)
            step = Step(
                of, method.loop, method.copies(), method.vectors(), len(rows), lengths,
                getattr(method, "separable", True),
            )  # fmt: skip
            each = method.effort(rows, of.blocks)
            before = method.effort_before(rows, of.blocks)
            tokens = sum(some.tokens for some in rows.values())
            self._trainings[same] = Training(before, each, tokens, step)
        return self._trainings[same]

    def _fit(self, label: str, training: Training) -> float:
        """Note under what the largest step of its name fits; give this one's bytes.

        Raises:
            ModelError: under nothing.
        """
        size = sum(training.step.bytes().values())
        before = self.found.fits.get(label)
        if before is None or size > before[0]:
            self.found.fits[label] = (size, check_fits(training.step, f"{label}: memory"))
        return self.on.program + size

    def _defend(self) -> None:
        done, line = self.store.keys("defend"), self._line("defend")
        kept = work = 0.0
        for step in self.plan.defends.values():
            if step.key in done:
                continue
            of = memory.shape(step.start.files)
            saved = of.weights * BYTES[step.start.dtype]
            kept += saved
            method, moved = step.method, 2 * saved / READ
            if not isinstance(method, Trainable):
                line.add(0.0, moved, self.on.program + _edited(of))
                continue
            training = self._training(step.start, method, step.seed)
            size = self._fit(f"{method.name()} on {step.start.name}", training)
            parts = training.step.bytes()
            work = max(work, 2 * (parts["weights"] + parts["moments"]))
            steps = method.loop.steps
            line.add(training.flops(steps), moved + training.seconds(steps, self.on), size)
        self.found.disk |= {"checkpoints": kept, "work (while a step trains)": work}

    def _attack(self) -> float:
        """Add attacks and answers; give the bytes of answers and verdicts."""
        done, size = self.store.keys("generate"), 0.0
        asked: set[str] = set()
        for track in self.plan.trajectories.values():
            missing = {
                budget: [s for s in point.asked.values() if s.key not in done | asked]
                for budget, point in track.points.items()
            }
            missing = {budget: steps for budget, steps in missing.items() if steps}
            if not missing:
                continue
            start, method = track.released.start, track.attack
            of = memory.shape(start.files)
            width = 4
            if method is not None:
                width = self._attacked(start, method, track.seed, max(missing))
            for steps in missing.values():
                for step in steps:
                    asked.add(step.key)
                    size += self._answered(start, of, step, width)
        return size

    def _attacked(self, start: Start, method: Method, seed: int, budget: float) -> int:
        """Add one attack up to a budget; give the bytes of a weight that answers are made with."""
        kind = "tune" if isinstance(method, Hosted) else "attack"
        line, of = self._line(kind), memory.shape(start.files)
        moved = of.weights * BYTES[start.dtype] / READ
        trains = method.then if isinstance(method, Chain) else method
        if not isinstance(trains, Trainable):
            edited = _edited(of) if isinstance(method, WeightAttack) else 0.0
            line.add(0.0, moved, self.on.program + edited)
            return 4
        training = self._training(start, trains, seed)
        name = trains.defence.name() if isinstance(trains, Hosted) else trains.name()
        size = self._fit(f"{name} on {start.name}", training)
        steps = trains.step_of(budget)
        line.add(training.flops(steps), moved + training.seconds(steps, self.on), size)
        return memory.weight_width(trains.loop)

    def _answered(self, start: Start, of: Shape, step: Generate, width: int) -> float:
        """Add the answers to one set; give their bytes."""
        prompts = self.plan.prompts[step.evaluation]
        sampler = prompts.sampler(self.plan.study.generation)
        lengths = self.counter.of(start, prompts.rows)
        number = len(prompts.rows) * step.draws
        if not prompts.sampled:
            options = sum(max(1, len(row.known.options)) for row in prompts.rows)
            each = Rows(options, lengths.prompt, max(1.0, lengths.response))
            flops = Effort(each.tokens, each.said).flops(of.body, of.head)
            answer, seconds = 0.0, flops / self.on.speed(width)
        else:
            answer = float(sampler.max_new_tokens)
            each = Rows(number, lengths.prompt, answer)
            flops = Effort(each.tokens, each.said).flops(of.body, of.head)
            seconds = answering(of, each, width, sampler.batch, self.on)
        size = self.on.program + of.weights * width
        if not prompts.chosen:
            size += cached(of, replace(each, number=min(number, sampler.batch)), width)
        self._line("generate").add(flops, seconds, size)
        return number * (ROW + LETTER * answer) * (1 + len(step.judges))


def answering(of: Shape, rows: Rows, width: int, batch: int, on: Card) -> float:
    """Give the seconds of answers as long as `rows` says, written token by token.

    For each token of a batch the weights are read once, and each block is started once.

    Args:
        width: bytes of a weight.
        batch: answers written together.
    """
    flops = Effort(rows.tokens, rows.said).flops(of.body, of.head)
    each = of.weights * width / on.bandwidth + of.layers * on.launch
    batches = max(rows.number / batch, _keys(of, width) * rows.tokens / CACHE)
    return flops / on.speed(width) + math.ceil(batches) * rows.response * each


def cached(of: Shape, rows: Rows, width: int) -> float:
    """Give the bytes of keys and values of a batch, which is cut where they fill `CACHE`."""
    return min(float(CACHE), _keys(of, width) * rows.tokens)


def _keys(of: Shape, width: int) -> float:
    """Give the bytes of a token's keys and values in all blocks."""
    return 2.0 * of.layers * of.shared * width


def _edited(of: Shape) -> float:
    return sum(memory.needed(of, None, copies=EDITED).values())


def estimate(plan: Plan, store: Store, on: Card, stand_ins: StandIns) -> Estimate:
    """Give what is left of a plan comes to on one device.

    Args:
        stand_ins: those the plan was made with.

    Raises:
        DataError: a context too short. ModelError: a step that fits into no card.
    """
    return Estimator(plan, store, on, stand_ins).run()
