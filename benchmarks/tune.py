"""What does a step of adaptive KL cost a host, beside plain fine-tuning on the same rows?

Run `python benchmarks/tune.py`, `--device cuda` on a GPU, `--small` for a first look. Random
weights and random tokens; all forms run in turn in one process on the same rows and threads. A
step is loss and gradients of one micro-batch, with the same chunked cross-entropy everywhere; the
optimiser's own, equal in all, is left out.

Necessary for adaptive KL: one more forward pass, the reference's, so 4/3 of plain fine-tuning. With
a probe the risk comes from that same pass; its share is measured by adaptive KL with risks from a
table. Memory: the largest sum of live tensors that a step makes, gradients included; the frozen
copy that full fine-tuning needs is beside it, and under LoRA none is needed. That a judge is asked
once a row, not once an epoch, is a test (tests/nn/test_risk.py).

`--trl` compares one step of the TRL form with ours instead, and with plain TRL, on rows of mixed
lengths and on rows of one length: TRL pads the rows of a batch to the longest, ours lie end to end.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from measuring import SHAPES, Shape, build, peak, rows, timed
from torch import Tensor

from holdfast import nn
from holdfast.api import LoRA, Risk
from holdfast.data.example import Role
from holdfast.data.tokens import Tokens
from holdfast.defences.adaptive_kl import AdaptiveKL, Watch
from holdfast.defences.adaptive_kl.fields import Schedule, Settled
from holdfast.defences.adaptive_kl.smoothing import Smoother
from holdfast.defences.plain_tuning import PlainTuning
from holdfast.nn.passes import Passes
from holdfast.nn.probe import About, Probe
from holdfast.nn.risk import Part
from holdfast.testing import tiny

MOST_TIME, MOST_PROBE, MOST_MEMORY, MOST_TRL = 1.45, 1.02, 1.1, 1.05
"""Most time beside plain fine-tuning, most of a probe's beside a table's, most memory of a step,
most time of the TRL form beside ours."""
ROWS = 4


@dataclass
class Bench:
    """A model, its frozen start where there is one, and how its passes run."""

    model: Any
    teacher: Any
    passes: Passes
    params: dict[str, Tensor]

    def step(self, method: Any, state: Any, tokens: Tokens) -> None:
        """Compute loss and gradients of one micro-batch, as the loop does."""
        batch = {Role.TASK: tokens}
        with self.passes.on():
            nn.grad(
                self.params,
                lambda part: method.loss(self.model, part, state),
                [batch],
                lambda part: method.counts(part, state),
            )


@contextmanager
def bench_of(shape: Shape, device: str, lora: bool) -> Generator[Bench]:
    """Make a model with an adapter, or one with a frozen copy beside it."""
    model = build(shape, device, torch.bfloat16 if device == "cuda" else torch.float32)
    if lora:
        with nn.lora(model, LoRA(), 0) as params:
            yield Bench(model, model, Passes(packed=True), params)
    else:
        teacher = copy.deepcopy(model).requires_grad_(False)
        yield Bench(model, teacher, Passes(packed=True), nn.trainable(model))


def watched(bench: Bench, risk: Risk, parts: list[Part]) -> Watch:
    """Give the state of adaptive KL in the middle of a run."""
    run: Any = SimpleNamespace(log=lambda **_: None)
    critic = nn.Critic(risk, parts, "benchmark")
    return Watch(bench.teacher, critic, Settled(Schedule()), Smoother(0.0), run)


def by_table(bench: Bench, some: Sequence[Tokens]) -> Watch:
    """Give the state where every row's risk is known."""
    draw = random.Random(1)
    risk = Risk(kind="given", path="none")
    known: dict[Any, float | None] = {row: draw.random() for part in some for row in part.rows}
    return watched(bench, risk, [Part(risk, table=known)])


def by_probe(bench: Bench, shape: Shape) -> Watch:
    """Give the state where a probe at half of the depth reads each row's risk on the way."""
    layer = shape.layers // 2
    about = About("", "", shape.width, shape.layers, layer, {}, 1.0, 0.0, 0.5)
    flat = torch.zeros(shape.width)
    probe = Probe(flat, flat + 1, flat + 0.01, torch.tensor([0.0, 1.0, 0.0]), about)
    risk = Risk(kind="probe")
    return watched(bench, risk, [Part(risk, probe=probe)])


def in_turn(
    forms: dict[str, Callable[[Tokens], None]], some: Sequence[Tokens], device: str, repeats: int
) -> dict[str, list[float]]:
    """Give the seconds that each form takes for all batches, once a repeat; one call before."""
    for form in forms.values():
        form(some[0])
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats):
        for name, form in forms.items():
            times[name].append(sum(timed(lambda t=t, form=form: form(t), device) for t in some))
    return times


def told(what: str, times: list[float], beside: list[float], bar: float) -> bool:
    """Print the median of the pairs' ratios; say whether it meets the bar."""
    pairs = [a / b for a, b in zip(times, beside, strict=True)]
    middle = statistics.median(pairs)
    met = middle <= bar
    print(
        f"{what}: {middle:.3f} x ({min(pairs):.3f}-{max(pairs):.3f}), bar {bar}"
        f"{'' if met else ' (above the bar)'}",
        flush=True,
    )
    return met


def compare(bench: Bench, shape: Shape, device: str, count: int, repeats: int) -> bool:
    """Time the three forms in turn and weigh their memory; say whether every bar is met."""
    draw = random.Random(0)
    some = [rows(shape, ROWS, shape.responses, draw) for _ in range(count)]
    forms: dict[str, Callable[[Tokens], None]] = {}
    leashed = AdaptiveKL()
    table, probe = by_table(bench, some), by_probe(bench, shape)
    forms["plain"] = lambda tokens: bench.step(PlainTuning(), None, tokens)
    forms["table"] = lambda tokens: bench.step(leashed, table, tokens)
    forms["probe"] = lambda tokens: bench.step(leashed, probe, tokens)
    times = in_turn(forms, some, device, repeats)
    fine = True
    for name, beside, bar in (("table", "plain", MOST_TIME), ("probe", "plain", MOST_TIME),
                              ("probe", "table", MOST_PROBE)):  # fmt: skip
        fine &= told(f"adaptive_kl by {name} beside {beside}", times[name], times[beside], bar)
    held = {
        n: max(peak(lambda t=t, form=form: form(t), device) for t in some)
        for n, form in forms.items()
    }
    ratio = held["probe"] / held["plain"]
    copies = 0
    if bench.teacher is not bench.model:
        copies = sum(p.numel() * p.element_size() for p in bench.teacher.parameters())
    print(
        f"memory of a step: {held['probe'] / 2**20:.0f} MiB beside {held['plain'] / 2**20:.0f} of "
        f"plain fine-tuning, {ratio:.2f} x, bar {MOST_MEMORY}; the frozen copy beside it "
        f"{copies / 2**20:.0f} MiB"
    )
    return fine and ratio <= MOST_MEMORY


def as_trl_reads(some: Sequence[Tokens]) -> list[list[dict[str, Any]]]:
    """Give batches of rows in TRL's columns, each row with an id of its own."""
    return [
        [
            {
                "input_ids": list(row.ids),
                "labels": [-100] * row.start + list(row.ids[row.start :]),
                "row_id": f"{number} {place}",
            }
            for place, row in enumerate(part.rows)
        ]
        for number, part in enumerate(some)
    ]


def trl_forms(
    bench: Bench, batches: list[list[dict[str, Any]]], device: str, folder: str
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Give loss and gradients of a batch by its number: of the TRL form, and of plain TRL."""
    from datasets import Dataset
    from trl import SFTConfig

    from holdfast.train.trl import AdaptiveKLSFTTrainer

    draw = random.Random(1)
    rows = [row for batch in batches for row in batch]
    settings: dict[str, Any] = {"max_steps": 1, "report_to": "none", "save_strategy": "no"}
    settings |= {"activation_checkpointing": False, "bf16": False, "use_cpu": device == "cpu"}
    trainer = AdaptiveKLSFTTrainer(
        bench.model,
        args=SFTConfig(folder, per_device_train_batch_size=ROWS, disable_tqdm=True, **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.byte_tokenizer(),
        risk={row["row_id"]: draw.random() for row in rows},
    )

    def step(number: int, leashed: bool) -> None:
        inputs = trainer.data_collator(batches[number])
        if not leashed:
            del inputs["risk"]
        trainer.model.zero_grad()
        count = (inputs["labels"] != -100).sum()
        placed = trainer._prepare_inputs(inputs)
        trainer.model.train()
        trainer.compute_loss(trainer.model, placed, num_items_in_batch=count).backward()

    return lambda number: step(number, True), lambda number: step(number, False)


def compare_trl(shape: Shape, device: str, count: int, repeats: int) -> bool:
    """Time the TRL form beside ours and beside plain TRL, rows of one and of mixed lengths."""
    answers = max(shape.responses)
    one = replace(shape, prompts=(answers, answers), responses=(answers, answers))
    fine = True
    for name, some_shape in (("one length", one), ("mixed lengths", shape)):
        draw = random.Random(0)
        some = [rows(some_shape, ROWS, some_shape.responses, draw) for _ in range(count)]
        read = sum(len(row.ids) for part in some for row in part.rows)
        padded = sum(ROWS * max(len(row.ids) for row in part.rows) for part in some)
        with bench_of(shape, device, lora=False) as bench, tempfile.TemporaryDirectory() as folder:
            times = in_turn(all_forms(bench, some, device, folder), some, device, repeats)
        print(f"rows of {name}: {padded / read:.2f} times as many tokens with TRL's padding")
        fine &= told("  the TRL form beside ours", times["trl"], times["ours"], MOST_TRL)
        fine &= told("  the TRL form beside plain TRL", times["trl"], times["plain"], MOST_TIME)
    return fine


def all_forms(
    bench: Bench, some: Sequence[Tokens], device: str, folder: str
) -> dict[str, Callable[[Tokens], None]]:
    """Give our step, the TRL form's and plain TRL's, each of the same batches."""
    number = {id(part): i for i, part in enumerate(some)}
    table, ours = by_table(bench, some), AdaptiveKL()
    leashed, plain = trl_forms(bench, as_trl_reads(some), device, folder)
    return {
        "ours": lambda tokens: bench.step(ours, table, tokens),
        "trl": lambda tokens: leashed(number[id(tokens)]),
        "plain": lambda tokens: plain(number[id(tokens)]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--small", action="store_true", help="a tiny size: no figure to keep")
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trl", action="store_true", help="the TRL form; needs the extra `trl`")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    shape = SHAPES["self-check" if options.small else options.device]
    if options.trl:
        return 0 if compare_trl(shape, options.device, options.batches, options.repeats) else 1
    fine = True
    for lora in (False, True):
        print("LoRA" if lora else "all weights", flush=True)
        with bench_of(shape, options.device, lora) as bench:
            fine &= compare(bench, shape, options.device, options.batches, options.repeats)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
