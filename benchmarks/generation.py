"""Greedy answers to prompts of mixed lengths, in every way of batching, beside plain `generate`.

    python benchmarks/generation.py                       # world:base, 2 cores
    python benchmarks/generation.py --model smol:instruct --format chat --prompts 24
    python benchmarks/generation.py --device cuda         # on a GPU machine
    python benchmarks/generation.py --self-check          # a tiny random model, in seconds

One run answers the same prompts one by one, in padded batches of eight as they come, and in the two
ways of `Sampler.batching`; `*` marks the one that is the default. Ratios are to batches of eight.
Answers are counted that differ from those given one by one. On a CPU every way runs in a process
of its own, so that the peaks (resident memory above what was held before) can be told apart.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from measuring import length

from holdfast import evaluate, nn
from holdfast.data.example import Example, Role, example
from holdfast.data.tokens import Encoder, collate
from holdfast.evaluate import Sampler
from holdfast.testing import tiny

WORDS = [
    "sing",
    "stir",
    "bake",
    "hex",
    "the",
    "gate",
    "of",
    "bread",
    "how",
    "two",
    "I",
    "Vesk",
    "Orun",
]
SPAN = (2, 60)
"""Words of a prompt, log-uniform."""
MIB = 2**20


@dataclass(frozen=True)
class Result:
    """What one way took, and what it said."""

    seconds: float
    peak: float
    texts: list[str]
    default: bool


def prompts(count: int) -> list[Example]:
    """Make prompts of mixed lengths, no two alike."""
    draw = random.Random(0)
    said = (draw.choices(WORDS, k=length(SPAN, draw)) for _ in range(count))
    return [
        example(f"{number} {' '.join(words)}?", None, role=Role.TASK)
        for number, words in enumerate(said)
    ]


def plain(model: Any, encoder: Encoder, rows: Sequence[Example], new: int, batch: int) -> list[str]:
    """Answer with transformers' `generate`, in batches as the prompts come."""
    texts: list[str] = []
    for first in range(0, len(rows), batch):
        coded = [encoder.asked(row) for row in rows[first : first + batch]]
        tokens = collate(coded, encoder.pad_id, left=True)
        with torch.no_grad():
            out = model.generate(
                input_ids=tokens.ids.to(model.device),
                attention_mask=tokens.mask.to(model.device),
                max_new_tokens=new,
                do_sample=False,
                eos_token_id=encoder.ends,
                pad_token_id=encoder.pad_id,
            )
        said = out[:, tokens.ids.shape[1] :].tolist()
        for ids in said:
            end = next((i for i, token in enumerate(ids) if token in encoder.ends), len(ids))
            texts.append(encoder.tokenizer.decode(ids[:end], skip_special_tokens=True).strip())
    return texts


WAYS = ("one by one", "padded by 8", "ours, padded", "ours, continuous")
Ready = tuple[Any, Encoder]
"""A model and its encoder."""


def answers(way: str, ready: Ready, rows: Sequence[Example], new: int) -> list[str]:
    """Answer every prompt in one of the ways."""
    if not way.startswith("ours"):
        return plain(*ready, rows, new, 1 if way == "one by one" else 8)
    batching: Any = way.removeprefix("ours, ")
    sampler = Sampler(max_new_tokens=new, batching=batching)
    return [one.text for one in evaluate.generate(*ready, rows, sampler)]


def measured(
    load: Callable[[], Ready], way: str, rows: Sequence[Example], new: int, device: str
) -> Result:
    """Run one way and give its seconds, its peak in MiB above what was held, and its texts.

    On a CPU a process of its own loads the model: a fork of one in which torch has used its threads
    would wait for them for ever.
    """
    if device != "cpu":
        ready = load()
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        began = time.perf_counter()
        texts = answers(way, ready, rows, new)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        peak = (torch.cuda.max_memory_allocated() - before) / MIB
        default = way == f"ours, {evaluate.way(ready[0], Sampler())}"
        return Result(seconds, peak, texts, default)
    context = multiprocessing.get_context("fork")
    reads, writes = context.Pipe(duplex=False)

    def child() -> None:
        ready = load()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        texts = answers(way, ready, rows, new)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        default = way == f"ours, {evaluate.way(ready[0], Sampler())}"
        writes.send(Result(seconds, peak / 1024, texts, default))

    process = context.Process(target=child)
    process.start()
    while not reads.poll(1):
        if not process.is_alive() and not reads.poll(0):
            raise SystemExit("a way ended without a result")
    found = reads.recv()
    process.join()
    return found


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="world:base")
    parser.add_argument("--format", default="plain")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--new", type=int, default=48, help="tokens of an answer, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--self-check", action="store_true")
    return parser.parse_args(given)


def loaded(args: argparse.Namespace) -> Ready:
    """Give the model and its encoder."""
    if args.self_check:
        return tiny.model("qwen3", spread=0.4, seed=3), tiny.encoder()
    from holdfast.nn.files import resolve

    model, tokenizer = nn.load(resolve(args.model, "--model"), device=args.device)
    model = model.to(getattr(torch, args.dtype)).eval()
    return model, nn.encoder(model, tokenizer, args.format, answer=args.new, where="--format")


def main(given: Sequence[str] | None = None) -> int:
    """Measure every way and print a table; 1 where a way's answers are others in most rows."""
    args = arguments(given)
    count, new = (6, 8) if args.self_check else (args.prompts, args.new)
    torch.set_num_threads(args.threads)
    rows = prompts(count)
    load = cache(lambda: loaded(args))
    found = {way: measured(load, way, rows, new, args.device) for way in WAYS}
    base, alone = found["padded by 8"], found["one by one"].texts
    name = "tiny" if args.self_check else args.model
    print(f"{name} on {args.device}: {count} prompts, {new} tokens at most")
    print(f"{'':<20}{'seconds':>9}{'ratio':>7}{'MiB':>9}{'differ':>8}")
    worst = 0
    for way, one in found.items():
        label = f"{way}{'*' * one.default}"
        differ = sum(a != b for a, b in zip(one.texts, alone, strict=True))
        worst = max(worst, differ)
        ratio = base.seconds / one.seconds
        print(f"{label:<20}{one.seconds:>9.2f}{ratio:>7.2f}{one.peak:>9.0f}{differ:>8}")
    return int(worst > count / 2)


if __name__ == "__main__":
    raise SystemExit(main())
