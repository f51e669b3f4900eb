"""Does a run need the memory that `holdfast` says it will, before any weight is read?

Run `python benchmarks/memory.py --device cuda` on a GPU of 141 GB, `--self-check` for a quick run
at a tiny size. A whole SGT, two steps of each stage, through the same function as `holdfast defend`
on a model of Qwen3-8B's shape with random weights. Printed: the estimate and its parts, the
allocator's peak, the time of a stage-2 step.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import math
import random
import sys
import time
from collections.abc import Sequence

import torch
import transformers
from measuring import SHAPES, Shape, build

from holdfast.api import Loop, LoRA
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.defences.sgt import SGT
from holdfast.nn import memory
from holdfast.nn.weights import DTYPES
from holdfast.testing import tiny
from holdfast.train.training import harden

FORMS: dict[str, tuple[str, bool]] = {
    "bf16_kahan": ("bf16_kahan", False),
    "bf16_stochastic": ("bf16_stochastic", False),
    "lora": ("bf16_pure", True),
}
"""What is measured: a precision, and whether an adapter alone is trained."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"
STEPS = 3


def words(draw: random.Random, count: int) -> str:
    """Draw letters that make about `count` tokens of the tiny tokenizer."""
    return "".join(draw.choice(LETTERS) for _ in range(count))


def pool(prompt: int, refusal: int, answer: int) -> Pool:
    """Give rows of one length, the longest that the benchmarks draw."""
    draw = random.Random(0)
    rows: list[Example] = []
    for role, said in ((Role.REFUSAL, refusal), (Role.BENIGN, answer)):
        rows += [
            example(words(draw, prompt), words(draw, said), role=role, side=Side.DEFENDER)
            for _ in range(8)
        ]
    return Pool(rows)


def shape_of(model: transformers.PreTrainedModel, shape: Shape) -> memory.Shape:
    """Give what headers and config would say of this model."""
    weights = sum(math.prod(p.shape) for p in model.parameters())
    return memory.Shape(weights, shape.layers, shape.width, shape.inner, shape.vocabulary, 2048)


def measure(name: str, shape: Shape, device: str) -> tuple[float, float]:
    """Run SGT in one form; give the estimate and the peak, in bytes."""
    precision, adapter = FORMS[name]
    loop = Loop(
        steps=STEPS,
        batch=2,
        micro_batch=1,
        lr=1e-5,
        precision=precision,  # ty: ignore[invalid-argument-type]
        lora=LoRA() if adapter else None,
    )
    method = SGT(loop=loop, stage1=Loop(steps=2, batch=2, micro_batch=1))
    rows = pool(shape.prompts[1], shape.refusals[1], shape.responses[1])
    model = build(shape, device, DTYPES[precision])
    of = shape_of(model, shape)
    encoder = Encoder(tiny.byte_tokenizer(), "plain")
    coded = [
        encoder.encode(row.prompt, row.response)
        for some in method.rows(rows, 0).values()
        for row in some
    ]
    said = max(len(row.ids) - row.start for row in coded)
    longest = max(len(row.ids) for row in coded)
    parts = memory.needed(of, loop, copies=method.copies(), rows=2, longest=longest, said=said)
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    stamps: list[float] = []
    last: list[str] = []

    def progress(part: str, done: int, total: int) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        stamps.append(time.perf_counter())
        last.append(part)

    harden(method, model, encoder, rows, seed=0, progress=progress)
    peak = float(torch.cuda.max_memory_allocated()) if device == "cuda" else math.nan
    ends = [at for at, part in zip(stamps, last, strict=True) if part == last[-1]]
    step = min((b - a for a, b in itertools.pairwise(ends)), default=math.nan)
    total = sum(parts.values())
    each = ", ".join(f"{what} {size / 2**30:.1f}" for what, size in parts.items())
    print(
        f"{name:>16} | estimate {total / 2**30:.1f} GiB ({each}) | peak {peak / 2**30:.1f} GiB, "
        f"{peak / total:.2f} of the estimate | {step:.2f} s a step of 2 + 2 rows of "
        f"{longest} tokens",
        flush=True,
    )
    return total, peak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if every estimate is within 20 % of the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--self-check", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=FORMS, action="append")
    parser.add_argument("--layers", type=int, default=36, help="blocks; Qwen3-8B has 36")
    options = parser.parse_args(arguments)
    if options.self_check:
        shape = dataclasses.replace(SHAPES["self-check"], vocabulary=512)  # of the tiny tokenizer
    else:
        shape = dataclasses.replace(SHAPES["cuda"], layers=options.layers)
    print(
        f"{shape.layers} layers x {shape.width}, vocabulary {shape.vocabulary}, {options.device}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}",
        flush=True,
    )
    near = []
    for name in options.only or FORMS:
        total, peak = measure(name, shape, options.device)
        near.append(math.isnan(peak) or abs(peak / total - 1) <= 0.2)
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
    print("every estimate is within 20 %" if all(near) else "an estimate is off by more than 20 %")
    return 0 if all(near) else 1


if __name__ == "__main__":
    sys.exit(main())
