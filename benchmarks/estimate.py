"""Does a study cost what `holdfast plan --estimate` says? On the small model, each in a process.

    python benchmarks/estimate.py               # smol:instruct, one thread
    python benchmarks/estimate.py --model world:base --format plain --steps 20
    python benchmarks/estimate.py --only defend_sgt --steps 2

Each job is estimated from shapes and lengths, then run in a fresh process: `defend refusal_sft`,
`defend sgt`, `attack harmful_sft`, `generate`. Loading is left out of the time on both sides. Time
is the processor's, which other work on the machine leaves alone (about); memory is the largest
resident size, beside an estimate that has the program itself in it. Bars: time within a factor of
2, memory within 20 %.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

from holdfast.api import Loop, Rows, Trainable
from holdfast.attacks.harmful_sft import HarmfulSFT
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.format import Format
from holdfast.data.pool import Pool
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.sgt import SGT
from holdfast.engine import estimate
from holdfast.engine.cards import Card, processor
from holdfast.engine.fits import Step
from holdfast.engine.sizes import Lengths, step_rows
from holdfast.nn import memory, resolve

WORDS = [
    *("sing", "stir", "bake", "the", "gate", "of", "bread", "how"),
    *("two", "I", "take", "one", "then", "slowly", "and", "with"),
]
JOBS = ("refusal_sft", "sgt", "harmful_sft", "generate")
MOST_TIME, MOST_MEMORY = 2.0, 0.2


def text(draw: random.Random, words: int) -> str:
    """Give placeholder words."""
    return " ".join(draw.choice(WORDS) for _ in range(words))


def pool(draw: random.Random) -> Pool:
    """Give rows of placeholder words: prompts of 10 to 60, answers of up to 80."""
    rows: list[Example] = []
    for side in (Side.DEFENDER, Side.ATTACKER):
        for i in range(24):
            asked, benign = (f"{i} {text(draw, draw.randint(10, 60))}" for _ in range(2))
            for role, prompt, most in (
                (Role.REFUSAL, asked, 20),
                (Role.HARMFUL, asked, 80),
                (Role.BENIGN, benign, 80),
            ):
                said = text(draw, draw.randint(8, most))
                rows.append(example(f"{side.value} {prompt}", said, role=role, side=side))
    return Pool(rows)


def method_of(name: str, steps: int) -> Trainable:
    """Give the method of a job, its loops cut short."""
    loop = Loop(steps=steps, batch=4, lr=1e-5)
    if name == "refusal_sft":
        return RefusalSFT(loop=loop)
    if name == "sgt":
        return SGT(loop=loop, stage1=loop.with_(steps=max(1, steps // 2)))
    return HarmfulSFT(loop=loop, evaluate_at=(steps * loop.batch,))


def encoder_of(model: str, form: str) -> Any:
    """Give what makes tokens of rows."""
    from holdfast.data.tokens import Encoder, load_tokenizer

    return Encoder(load_tokenizer(resolve(model).folder, "--model"), Format(form))


def lengths_in(coder: Any) -> Any:
    """Give what counts rows in a model's own tokens, its format's among them."""

    def lengths(rows: Sequence[Example]) -> Lengths:
        coded = [coder.row(row) for row in rows]
        said = [len(row.ids) - row.start for row in coded]
        asked = [row.start for row in coded]
        longest = max(len(row.ids) for row in coded)
        n = len(coded)
        return Lengths(sum(asked) / n, sum(said) / n, longest, max(said))

    return lengths


def estimated(name: str, options: Any, on: Card) -> tuple[float, float]:
    """Give seconds and bytes by estimate."""
    coder = encoder_of(options.model, options.format)
    of = memory.shape(resolve(options.model))
    rows = pool(random.Random(0))
    if name == "generate":
        asked = rows.rows(Side.DEFENDER, lambda row: row.role is Role.BENIGN)[: options.prompts]
        mean = lengths_in(coder)(asked)
        each = Rows(len(asked), mean.prompt, options.tokens)
        seconds = estimate.answering(of, each, 4, 128, on)
        return seconds, on.program + 4.0 * of.weights + estimate.cached(of, each, 4)
    method = method_of(name, options.steps)
    drawn = method.rows(method.sees(rows), 0)
    per, longest = step_rows(method, drawn, lengths_in(coder))
    step = Step(of, method.loop, method.copies(), method.vectors(), len(per), longest)
    each, before = method.effort(per, of.blocks), method.effort_before(per, of.blocks)
    tokens = sum(some.tokens for some in per.values())
    training = estimate.Training(before, each, tokens, step)
    return training.seconds(options.steps, on), on.program + sum(step.bytes().values())


def measured(name: str, options: Any, say: Any) -> None:
    """Do one job here; say seconds of the processor, of the clock, and bytes."""
    import torch

    from holdfast import evaluate, nn
    from holdfast.evaluate import Sampler
    from holdfast.train import attack, harden

    torch.set_num_threads(1)
    coder, rows = encoder_of(options.model, options.format), pool(random.Random(0))
    model, _ = nn.load(resolve(options.model))
    began, clock = time.process_time(), time.perf_counter()
    if name == "generate":
        asked = rows.rows(Side.DEFENDER, lambda row: row.role is Role.BENIGN)[: options.prompts]
        sampler = Sampler(max_new_tokens=options.tokens)
        found = list(evaluate.answers(model, coder, asked, sampler, seed=0))
        written = sum(answer.tokens or 0 for _, answer in found)
        print(f"{written} tokens in {len(found)} answers", file=sys.stderr)
    elif name == "harmful_sft":
        method = method_of(name, options.steps)
        points = [float(options.steps * method.loop.batch)]
        attack(method, model, coder, rows, seed=0, points=points, on_point=lambda *_: None)
    else:
        harden(method_of(name, options.steps), model, coder, rows, seed=0)
    spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    say.put((spent, time.perf_counter() - clock, float(peak)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smol:instruct")
    parser.add_argument("--format", default="chat")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--only", choices=JOBS, action="append")
    options = parser.parse_args(arguments)
    context, on, fine = multiprocessing.get_context("spawn"), processor(), True
    print(f"{options.model}, {options.steps} steps; {options.prompts} x {options.tokens} tokens")
    for name in options.only or JOBS:
        seconds, size = estimated(name, options, on)
        answers = context.Queue()
        child = context.Process(target=measured, args=(name, options, answers))
        child.start()
        spent, clock, peak = answers.get()
        child.join()
        fast, large = spent / seconds, peak / size
        met = 1 / MOST_TIME <= fast <= MOST_TIME and abs(large - 1) <= MOST_MEMORY
        fine &= met
        print(
            f"{name:>12} | time: estimate {seconds:.1f} s, processor {spent:.1f} s ({fast:.2f}), "
            f"clock {clock:.1f} s | memory: estimate {size / 2**30:.2f} GiB, peak "
            f"{peak / 2**30:.2f} ({large:.2f}) | {'met' if met else 'missed'}",
            flush=True,
        )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
