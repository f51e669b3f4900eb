"""What does a step of each defence cost, beside what it must and beside its published form?

Run `python benchmarks/defences.py`, `--only NAME ...` for some, `--device cuda` on a GPU,
`--small` for a first look at an eighth of the work, `--self-check` for a quick proof at a tiny size
that both forms give the same numbers. Each round is told on stderr as it ends. Random weights and
random tokens. Plain fine-tuning, our form and the plain form of `plain.py` run in turn
in one process on the same rows and threads; medians of these triples, with their range.

The unit is a step of plain fine-tuning: 4 packed rows, chunked cross-entropy. A method reads 4 rows
of each of its roles, all roles with the same lengths, so that the published counts hold as they
stand. Every method trains all weights. A step is loss and gradients of one micro-batch; the
optimiser's own, equal in all, is left out, which flatters nobody. `lox` trains nothing.

Necessary: the passes counted in each fidelity page (Vaccine 10/6, Booster 18/6), as FLOPs: 2 x
weights x tokens forward, twice that backward (half where only inputs need a gradient), heads at the
positions asked for, attention's products. T-Vaccine's are counted for the layers drawn.

Memory: the largest sum of live tensors that the profiler (CPU) or the allocator (CUDA) sees in a
step, gradients included; parameters, moments and the frozen start exist before. Booster's extra is
taken beside a step that, as any of several micro-batches, already holds a gradient.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from measuring import SHAPES, Shape, build, differences, flops, length, peak, timed, words
from plain import FORMS, Batch, Found
from torch import Tensor

from holdfast import nn
from holdfast.api import GradientDefence, Term, TrainedDefence
from holdfast.data.example import Role
from holdfast.data.tokens import IGNORE, Row, collate
from holdfast.defences.booster import Booster
from holdfast.defences.circuit_breakers import CircuitBreakers
from holdfast.defences.ctrap import CTRAP
from holdfast.defences.random_vaccine import Noise, RandomVaccine
from holdfast.defences.rep_noise import RepNoise, RepNoiseState
from holdfast.defences.sdd import SDD
from holdfast.defences.seam import SEAM
from holdfast.defences.t_vaccine import Layers, TVaccine, drawn
from holdfast.defences.tar import TAR, TARState
from holdfast.defences.triplet import Triplet
from holdfast.defences.vaccine import Vaccine
from holdfast.nn.passes import Passes
from holdfast.nn.vectors import total
from holdfast.train.loop import compute

ROWS = 4
"""Rows of each role in a step."""
MOST_COST = 1.25
"""Most time over the necessary."""
MOST_PLAIN = 1.05
"""Most time over the plain form."""
LEAST_OF_COUNTED = 0.8
"""RepNoise: least speed over its plain form, as a share of the counted ratio."""
MOST_COPIES = 1.1
"""Booster: most copies of the weights held beside a gradient; one, and what a tensor needs."""
APART = {"cpu": 1e-4, "cuda": 0.1}
"""Most relative difference of loss and gradients; bf16 products give no more digits."""

METHODS: dict[str, TrainedDefence] = {
    "sdd": SDD(),
    "vaccine": Vaccine(),
    "t_vaccine": TVaccine(),
    "random_vaccine": RandomVaccine(),
    "rep_noise": RepNoise(),
    "booster": Booster(),
    "ctrap": CTRAP(),
    "seam": SEAM(),
    "circuit_breakers": CircuitBreakers(),
    "triplet": Triplet(),
    "tar": TAR.model_validate({"preset": "lite"}),
}

STRONG: dict[str, dict[str, Any]] = {
    "rep_noise": {"noise_weight": 1.0},
    "booster": {"alpha": 1.0},
    "seam": {"couple_weight": 1.0, "eps": 0.01},
    "tar": {"tamper_weight": 1.0, "attack": {"steps": 4, "every": 2, "rates": [1e-3]}},
}
"""The self-check's fields: terms that are small by default must not hide a difference."""


def shape_of(name: str) -> Shape:
    """Give a model's size: fewer layers on a GPU, where SEAM's plain form holds seven copies."""
    if name == "small":
        return replace(SHAPES["cpu"], layers=4, width=256, inner=768, vocabulary=16_000)
    layers = {"cpu": 8, "cuda": 6, "self-check": 4}
    return replace(SHAPES[name], layers=layers[name])


def for_bf16(method: TrainedDefence, size: int) -> TrainedDefence:
    """Lengthen what is added to weights, so that bf16 products see it; the cost is the same."""
    far = 2e-3 * math.sqrt(size)
    if isinstance(method, Booster):
        return method.with_(alpha=far)
    if isinstance(method, CTRAP):
        return method.with_(alpha=far, normalise=True)
    if isinstance(method, SEAM):
        return method.with_(eps=far)
    if isinstance(method, TAR):
        return method.with_(attack=method.attack.with_(rates=(2e-3,)))
    return method


# ---- rows and states


def draw_batch(shape: Shape, draw: random.Random) -> dict[Role, Any]:
    """Draw rows of every role, all with the same lengths; harmful ones share refusals' prompts."""
    made: dict[Role, list[Row]] = {Role.REFUSAL: [], Role.HARMFUL: [], Role.BENIGN: []}
    for _ in range(ROWS):
        start, answer = length(shape.prompts, draw), length(shape.responses, draw)
        prompt = words(shape, start, draw)
        for role, some in made.items():
            own = words(shape, start, draw) if role is Role.BENIGN else prompt
            ids = own + words(shape, answer, draw)
            some.append(Row(ids, start, (2, start - 1), False))
    return {role: collate(some, 0) for role, some in made.items()}


def state_of(method: Any, model: Any, teacher: Any, batch: Batch) -> Any:
    """Make what a run would have set up, in the middle of its schedule."""
    pairs = list(zip(batch[Role.HARMFUL].rows, batch[Role.REFUSAL].rows, strict=True))
    partner = {harmful.ids: refusal for harmful, refusal in pairs}
    if isinstance(method, CTRAP):
        return 3
    if isinstance(method, RandomVaccine):
        return Noise(0, 1)
    if isinstance(method, RepNoise):
        return RepNoiseState(partner)
    if isinstance(method, TAR):
        reader: Any = SimpleNamespace(pad_id=0)
        harmful = list(batch[Role.HARMFUL].rows)
        return TARState(reader, harmful, [], partner, reference=teacher)
    if isinstance(method, TVaccine):
        p = method._measured(model, [batch[Role.HARMFUL]])
        return Layers(0, step=1, p=p, chosen=drawn(p, method.count_of(len(p)), 0))
    if isinstance(method, CircuitBreakers | Triplet):
        around: Any = SimpleNamespace(model=model, seed=0)
        state = method.setup(around)
        state.teacher = teacher
        method.on_step(method.loop.steps // 2, state)
        return state
    return None


# ---- counting


def passes(method: Any, state: Any, depth: int) -> tuple[float, float]:
    """Give a step's necessary passes: of one role's rows through the body, of its response
    positions through the head; forward 1, backward 2, or 1 where only inputs need a gradient.
    """
    if isinstance(method, Vaccine):
        return 5, 5
    if isinstance(method, TVaccine):
        share, behind = len(state.chosen) / depth, (depth - min(state.chosen)) / depth
        return 3 + behind + share, 5
    if isinstance(method, RepNoise):
        return 6, 3 * (depth + 1)
    if isinstance(method, Booster | CTRAP):
        return 9, 9
    if isinstance(method, SEAM):
        return 18, 18 + 3 * (depth - 1)
    if isinstance(method, CircuitBreakers):
        return 4 * (max(state.layers) + 2 * max(state.retained)) / depth, 0
    if isinstance(method, Triplet):
        return 8, 4
    if isinstance(method, TAR):
        how = method.attack
        judged = sum(not (how.steps - 1 - k) % how.every for k in range(how.steps))
        trained = 3 * how.steps + 6 * judged + 3
        return trained + 3, trained + 2
    return 3, 3


# ---- the comparison


@dataclass
class Bench:
    """A model a little way from its frozen start, and how its passes run."""

    shape: Shape
    model: Any
    teacher: Any
    params: dict[str, Tensor]
    device: str

    @contextmanager
    def around(self, packed: bool) -> Generator[None]:
        """Run passes as the training loop does; plain forms are not packed."""
        with ExitStack() as stack:
            precision = "fp32_master" if self.device == "cuda" else "fp32"
            stack.enter_context(compute(precision, self.device))
            if packed:
                stack.enter_context(Passes(packed=True).on())
            yield

    def tuned(self, batch: Batch, times: int = 1) -> Found:
        """Fine-tune plainly on a batch's refusals, fed so many times."""

        def loss(part: Any) -> Any:
            value, count = nn.nll(self.model, part)
            return {"refusal": Term(value, count, 1.0, "tokens")}

        def counts(part: Any) -> dict[str, float]:
            return {"refusal": float((part.labels != IGNORE).sum())}

        with self.around(packed=True):
            found, terms = nn.grad(self.params, loss, [batch[Role.REFUSAL]] * times, counts)
        return total(terms), found


@dataclass
class Job:
    """One method on one micro-batch."""

    bench: Bench
    name: str
    method: Any
    batch: Batch
    state: Any

    @contextmanager
    def _frozen(self) -> Generator[None]:
        """Hold still what T-Vaccine has not drawn."""
        if isinstance(self.method, TVaccine):
            self.state.held = self.bench.params
            self.method._freeze(self.bench.model, self.state)
        yield
        for p in self.bench.params.values():
            p.requires_grad_(True)

    def ours(self) -> Found:
        """Give loss and gradients as Holdfast computes them."""
        method, model = self.method, self.bench.model
        roles = {Role(name): self.batch[Role(name)] for name in method.roles}
        with self.bench.around(packed=True), self._frozen():
            if isinstance(method, GradientDefence):
                step = {role: [tokens] for role, tokens in roles.items()}
                found, terms = method.gradient(model, step, self.state)
            else:
                found, terms = nn.grad(
                    self.bench.params,
                    lambda part: method.loss(model, part, self.state),
                    [roles],
                )
        return total(terms), found

    def plain(self) -> Found:
        """Give the same by the plain form."""
        with self.bench.around(packed=False), self._frozen():
            return FORMS[self.name](self.method, self.bench.model, self.batch, self.state)

    def counted(self, body: float, head: float) -> float:
        """Give the FLOPs of so many passes of one role's rows."""
        rows = self.batch[Role.REFUSAL].rows
        said = sum(len(row.ids) - row.start for row in rows)
        return flops(self.bench.model, [len(row.ids) for row in rows], said, body, head)

    def necessary(self) -> float:
        """Give the FLOPs of a step that leaves out nothing it needs and adds nothing."""
        return self.counted(*passes(self.method, self.state, self.bench.shape.layers))

    def padded_rep_noise(self) -> float:
        """Give the FLOPs of RepNoise's plain form: every position of the longest, every head."""
        count = 0.0
        for role, heads in ((Role.HARMFUL, self.bench.shape.layers), (Role.REFUSAL, 1)):
            wide = self.batch[role].ids.shape[1]
            count += flops(self.bench.model, [wide] * ROWS, heads * wide * ROWS, 3, 3)
        return count


def prepare(shape: Shape, device: str) -> Bench:
    """Make a model a little way from its start, so that no distance is 0."""
    teacher = build(shape, device).requires_grad_(False)
    model = copy.deepcopy(teacher).requires_grad_(True)
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.002 * torch.randn(p.shape, generator=generator, device=device))
    return Bench(shape, model, teacher, nn.trainable(model), device)


def jobs(bench: Bench, name: str, count: int) -> list[Job]:
    """Draw micro-batches for one method."""
    draw, made = random.Random(0), []
    method = METHODS[name]
    if bench.device == "cuda":
        method = for_bf16(method, sum(p.numel() for p in bench.params.values()))
    for _ in range(count):
        batch = draw_batch(bench.shape, draw)
        with bench.around(packed=True):
            state = state_of(method, bench.model, bench.teacher, batch)
        made.append(Job(bench, name, method, batch, state))
    return made


def spread(values: Sequence[float]) -> str:
    """Write a median and the range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


HEADER = (
    "| defence | SFT steps: ours | plain | necessary | ours / necessary | ours / plain "
    "| peak MiB: ours | plain | SFT | loss, gradient apart | |\n" + "|---" * 11 + "|"
)


def compare(
    bench: Bench, name: str, count: int, repeats: int, clock: Callable[[], float]
) -> tuple[bool, list[str]]:
    """Print a method's line; say whether every bar is met, and what else is to be told of it."""
    work, device = jobs(bench, name, count), bench.device
    apart = [differences(job.ours(), job.plain()) for job in work]
    loss, gradient = (max(column) for column in zip(*apart, strict=True))
    bench.tuned(work[0].batch)
    times: dict[str, list[float]] = {"sft": [], "ours": [], "plain": []}
    for turn in range(repeats):
        spent = dict.fromkeys(times, 0.0)
        for job in work:
            spent["sft"] += timed(lambda job=job: bench.tuned(job.batch), device, clock)
            spent["ours"] += timed(job.ours, device, clock)
            spent["plain"] += timed(job.plain, device, clock)
        for form, seconds in spent.items():
            times[form].append(seconds)
        said = ", ".join(f"{form} {seconds:.2f} s" for form, seconds in spent.items())
        print(f"{name} {turn + 1} of {repeats}: {said}", file=sys.stderr, flush=True)
    triples = list(zip(*times.values(), strict=True))
    steps = [ours / sft for sft, ours, _ in triples]
    plain_steps = [plain / sft for sft, _, plain in triples]
    beside = [ours / plain for _, ours, plain in triples]
    asked = sum(job.necessary() for job in work) / sum(job.counted(3, 3) for job in work)
    longest = max(work, key=lambda job: sum(len(row.ids) for row in job.batch[Role.REFUSAL].rows))
    held = {
        "ours": peak(longest.ours, device),
        "plain": peak(longest.plain, device),
        "sft": peak(lambda: bench.tuned(longest.batch), device),
    }
    cost = statistics.median(steps) / asked
    missed = [
        label
        for label, wrong in (
            ("different", max(loss, gradient) > APART[device]),
            ("cost", cost > MOST_COST),
            ("plain", statistics.median(beside) > MOST_PLAIN),
        )
        if wrong
    ]
    told: list[str] = []
    if name == "rep_noise":
        ratio = sum(job.padded_rep_noise() for job in work) / sum(j.necessary() for j in work)
        reached = statistics.median([1 / value for value in beside]) / ratio
        missed += ["counted ratio"] if reached < LEAST_OF_COUNTED else []
        told.append(
            f"rep_noise: {1 / statistics.median(beside):.2f} x as fast as its plain form, counted "
            f"{ratio:.2f} x, reached {reached:.2f} (bar {LEAST_OF_COUNTED})"
        )
    if name == "booster":
        copy_ = sum(p.numel() * p.element_size() for p in bench.params.values())
        before = peak(lambda: bench.tuned(longest.batch, 2), device)
        ours, plain = ((held[form] - before) / copy_ for form in ("ours", "plain"))
        missed += ["copies"] if ours > MOST_COPIES else []
        told.append(
            f"booster: {ours:.2f} copies of the weights beside a step that holds a gradient "
            f"(plain {plain:.2f}); bar one, {MOST_COPIES} allowed"
        )
    if name == "tar":
        inner = METHODS[name].attack.steps  # ty: ignore
        told.append(
            f"tar: {statistics.median(steps) / inner:.2f} SFT steps an inner step "
            f"(`lite`, {inner} of them), {asked / inner:.2f} necessary"
        )
    size = {form: f"{value / 2**20:.0f}" for form, value in held.items()}
    print(
        f"| {name} | {spread(steps)} | {spread(plain_steps)} | {asked:.2f} | {cost:.2f} "
        f"| {spread(beside)} | {size['ours']} | {size['plain']} | {size['sft']} "
        f"| {loss:.0e}, {gradient:.0e} | {'missed: ' + ', '.join(missed) if missed else 'met'} |",
        flush=True,
    )
    return not missed, told


def self_check(names: Sequence[str]) -> bool:
    """Prove at a tiny size that both forms agree in loss and gradients."""
    bench, fine = prepare(shape_of("self-check"), "cpu"), True
    for name in names:
        (job,) = jobs(bench, name, 1)
        job.method = METHODS[name].with_(**STRONG.get(name, {}))
        before = {key: p.detach().clone() for key, p in bench.params.items()}
        loss, gradient = differences(job.ours(), job.plain())
        still = all(torch.equal(p, before[key]) for key, p in bench.params.items())
        asked = job.necessary() / job.counted(3, 3)
        fine &= max(loss, gradient) <= APART["cpu"] and still
        print(f"{name:>16}: loss {loss:.0e}, gradient {gradient:.0e}, necessary {asked:.2f}")
    return fine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if all forms agree and every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--self-check", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--small", action="store_true", help="a first look at an eighth of the work; no bar's shape"
    )
    parser.add_argument("--only", choices=METHODS, nargs="+", metavar="NAME")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock",
        choices=["wall", "processor"],
        default="wall",
        help="processor: seconds this process was at work, where others are too (no GPU)",
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    names = options.only or list(METHODS)
    if options.self_check:
        return 0 if self_check(names) else 1
    size = "small" if options.small else options.device
    bench = prepare(shape_of(size), options.device)
    clock = time.process_time if options.clock == "processor" else time.perf_counter
    print(
        f"{bench.shape.layers} layers x {bench.shape.width}, vocabulary {bench.shape.vocabulary}, "
        f"{options.device}, {options.threads} thread(s), {options.batches} batches, "
        f"{options.repeats} repeats, {options.clock} time, torch {torch.__version__}, "
        f"transformers {transformers.__version__}\n\n{HEADER}",
        flush=True,
    )
    met, told = True, []
    for name in names:
        fine, lines = compare(bench, name, options.batches, options.repeats, clock)
        met, told = met and fine, told + lines
    print("\n" + "\n".join([*told, "every bar is met" if met else "a bar is missed"]))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
