"""How much faster is SGT here than written plainly, and how near to what must be computed?

Run `python benchmarks/sgt.py`, `--device cuda` on a GPU, `--self-check` for a quick proof at a
tiny size that both forms give the same numbers. Random weights and random tokens; both forms run
in turn in one process, on the same rows, positions and threads. A step here is the loss and the
gradients of one micro-batch; the optimiser's own step, equal in both, is left out.

The plain form, fixed here: stage 2 on a padded micro-batch of 2 rows a role, one student pass with
graph over both halves, one teacher pass over both (a second one, without the trigger, for the
defaults, whose unit is the trigger's shift), full logits, `output_hidden_states`; stage 1 on
a padded batch of 4 with frozen weights, three separate passes, full logits.

FLOPs: 2 x weights x tokens forward, twice that backward (once where only inputs need a gradient),
attention's products under a causal mask; each form is counted by the tokens that it passes.
Memory: the largest sum of live tensors that the profiler (CPU) or the allocator (CUDA) sees in a
step, less the gradients; parameters, moments and teacher exist before and are not in it.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from measuring import SHAPES, Shape, build, ceiling, differences, flops, peak, rows, timed
from torch import Tensor
from torch.nn.functional import cross_entropy

from holdfast import nn
from holdfast.api import seed as seed_of
from holdfast.data.example import Role
from holdfast.data.tokens import Tokens, collate
from holdfast.defences.sgt import SGT, SGTState, repulsion
from holdfast.nn.passes import Passes
from holdfast.nn.vectors import total

DEFAULT = "default"
PRESETS = (DEFAULT, "absolute", "paper")
STAGE_1 = "stage 1"
BARS = {DEFAULT: 1.5, "absolute": 1.5, "paper": 1.6, STAGE_1: 1.8}
"""Least speed over the plain form on a CPU; stage 2 also 0.85 of the FLOP ratio and 0.6 memory."""


# ---- the plain forms


def triggered(model: Any, tokens: Tokens, trigger: Tensor) -> dict[str, Tensor]:
    """Put the trigger after each row's role tag (column 2 of all)."""
    device = trigger.device
    embeds = model.get_input_embeddings()(tokens.ids.to(device))
    put = trigger.to(embeds.dtype).expand(len(tokens), -1, -1)
    mask = tokens.mask.to(device)
    return {
        "inputs_embeds": torch.cat([embeds[:, :2], put, embeds[:, 2:]], dim=1),
        "attention_mask": torch.cat([mask[:, :1].expand(-1, trigger.shape[0]), mask], dim=1),
    }


def plain_rows(method: SGT, harmful: Tokens, benign: Tokens) -> Tokens:
    """Give the one padded batch of both halves; `prompt` needs no refusals after the prompts."""
    first = [
        row.cut(row.start) if method.align.positions == "prompt" else row for row in harmful.rows
    ]
    return collate([*first, *benign.rows], 0)


def plain_stage2(
    method: SGT, model: Any, teacher: Any, harmful: Tokens, benign: Tokens, trigger: Tensor
) -> Tensor:
    """Write Eq. 4 as one would at first: every logit, every state, padded."""
    device, cut = trigger.device, len(harmful)
    both = plain_rows(method, harmful, benign)
    ids, mask = both.ids.to(device), both.mask.to(device)
    out = model(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    with torch.no_grad():
        goal = teacher(
            **triggered(teacher, both, trigger), output_hidden_states=True, use_cache=False
        )
    back = [*range(2), *range(2 + trigger.shape[0], ids.shape[1] + trigger.shape[0])]
    select = torch.zeros(ids.shape, device=device)
    for number, row in enumerate([*harmful.rows, *benign.rows]):
        which = method.align.positions if number < cut else method.repel.positions
        first, last = row.span(which)
        select[number, first:last] = 1.0
    shift, apart = method.align.relative == "shift", []
    plain = goal
    if shift:
        with torch.no_grad():
            plain = teacher(ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    layers = zip(*(o.hidden_states[1:] for o in (out, goal, plain)), strict=True)
    for h_s, h_t, h_0 in layers:
        target = h_t[:, back].float()
        square = (h_s.float() - target).square().sum(-1)
        if shift or method.align.over_hidden == "mean":
            square = square / h_s.shape[-1]
        found = (square * select).sum(1) / select.sum(1)
        if shift:
            moved, size = (
                (part.square().mean(-1) * select).sum(1) / select.sum(1)
                for part in (target - h_0.float(), target)
            )
            found = found / moved.clamp(min=1e-12).maximum(1e-4 * size)
        apart.append(found)
    distance = torch.stack(apart)
    labels = both.labels.to(device).clone()
    labels[:cut] = -100
    task = cross_entropy(
        out.logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
    )
    count = (labels != -100).sum() if method.task_reduce == "mean" else len(benign)
    repelled = repulsion(distance[:, cut:], method.repel.eps, method.repel.aggregate).mean()
    aligned = distance[:, :cut].mean(0).mean()
    return method.alpha_align * aligned + task / count + method.alpha_repel * repelled


def plain_stage1(method: SGT, teacher: Any, harmful: Tokens, trigger: Tensor) -> Tensor:
    """Write Eq. 1 as one would at first: three passes, every logit."""
    device, k = trigger.device, trigger.shape[0]
    generator = torch.Generator().manual_seed(seed_of(0, "noise", 0))
    noise = torch.randn(method.cons.samples, *trigger.shape, generator=generator).to(device)
    labels = harmful.labels.to(device)
    widened = torch.cat([labels.new_full((len(labels), k), -100), labels], dim=1)[:, 1:]
    at = widened != -100
    clean = teacher(**triggered(teacher, harmful, trigger), use_cache=False).logits[:, :-1].float()
    loss = cross_entropy(clean.flatten(0, 1), widened.flatten())
    p = clean[at].detach().log_softmax(-1)
    for one in noise:
        moved = trigger + method.cons.sigma * one
        logits = teacher(**triggered(teacher, harmful, moved), use_cache=False).logits[:, :-1]
        q = logits.float()[at].log_softmax(-1)
        apart = (p.exp() * (p - q)).sum(-1).mean()
        loss = loss + method.cons.weight * apart / method.cons.samples
    return loss


# ---- counting


def counted(model: Any, job: Job) -> tuple[float, float]:
    """Give the FLOPs of the plain form and of ours."""
    method, harmful, benign = job.method, job.harmful, job.benign
    k = method.trigger.length
    if benign is None:
        copies = 1 + method.cons.samples
        real = [len(row.ids) + k for row in harmful.rows] * copies
        padded = [harmful.ids.shape[1] + k] * len(harmful) * copies
        said = copies * float((harmful.labels != -100).sum())
        return flops(model, padded, sum(padded), 2, 2), flops(model, real, said, 2, 2)
    width = plain_rows(method, harmful, benign).ids.shape[1]
    count = len(harmful) + len(benign)
    student = flops(model, [width] * count, width * count, 3, 3)
    teacher = flops(model, [width + k] * count, (width + k) * count, 1, 1)
    shift = method.align.relative == "shift"  # the teacher's plain states too
    if shift:
        teacher += flops(model, [width] * count, width * count, 1, 1)
    short = [row.span(method.align.positions)[1] for row in harmful.rows]
    asked = short + [row.span(method.repel.positions)[1] for row in benign.rows]
    given = short + [len(row.ids) for row in benign.rows]
    said = float((benign.labels != -100).sum())
    ours = flops(model, given, said, 3, 3) + flops(model, [n + k for n in asked], 0, 1, 0)
    if shift:
        ours += flops(model, asked, 0, 1, 0)
    return student + teacher, ours


# ---- the comparison


@dataclass(frozen=True)
class Job:
    """One micro-batch; no benign rows in stage 1."""

    method: SGT
    harmful: Tokens
    benign: Tokens | None


@dataclass
class Bench:
    """A student, its teacher and a trigger."""

    model: Any
    teacher: Any
    trigger: Tensor
    params: dict[str, Tensor]
    passes: Passes

    def ours(self, job: Job) -> tuple[float, dict[str, Tensor]]:
        """Give loss and gradients as Holdfast computes them."""
        batch = {Role.REFUSAL: job.harmful}
        with self.passes.on():
            if job.benign is None:
                found, terms = nn.grad(
                    {"trigger": self.trigger},
                    lambda part: job.method.stage1_loss(self.teacher, part, self.trigger, 0, 0),
                    [batch],
                )
            else:
                state = SGTState(self.trigger.detach(), self.teacher, None)
                found, terms = nn.grad(
                    self.params,
                    lambda part: job.method.loss(self.model, part, state),
                    [batch | {Role.BENIGN: job.benign}],
                )
        return total(terms), found

    def plain(self, job: Job) -> tuple[float, dict[str, Tensor]]:
        """Give the same by the plain form."""
        if job.benign is None:
            loss = plain_stage1(job.method, self.teacher, job.harmful, self.trigger)
            wanted = {"trigger": self.trigger}
        else:
            loss = plain_stage2(
                job.method,
                self.model,
                self.teacher,
                job.harmful,
                job.benign,
                self.trigger.detach(),
            )
            wanted = self.params
        loss.backward()
        found = {name: p.grad for name, p in wanted.items() if p.grad is not None}
        for p in wanted.values():
            p.grad = None
        return float(loss.detach()), found


def prepare(shape: Shape, device: str, passes: Passes) -> Bench:
    """Make a student a little way from its teacher, so that no distance is 0."""
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    teacher = build(shape, device, kind).requires_grad_(False)
    model = copy.deepcopy(teacher).requires_grad_(True)
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.002 * torch.randn(p.shape, generator=generator, device=device, dtype=p.dtype))
    trigger = 0.05 * torch.randn(1, shape.width, generator=generator, device=device)
    trigger.requires_grad_(True)
    return Bench(model, teacher, trigger, nn.trainable(model), passes)


def jobs(shape: Shape, name: str, count: int, size: int = 2) -> list[Job]:
    """Draw micro-batches: `size` rows a role for a preset of stage 2, twice that for stage 1."""
    draw = random.Random(0)
    if name == STAGE_1:
        return [
            Job(
                SGT.model_validate({"preset": "absolute"}),
                rows(shape, 2 * size, shape.refusals, draw),
                None,
            )
            for _ in range(count)
        ]
    preset = {} if name == DEFAULT else {"preset": name}
    method = SGT.model_validate(preset | {"teacher_embeddings": "own"})
    return [
        Job(
            method,
            rows(shape, size, shape.refusals, draw),
            rows(shape, size, shape.responses, draw),
        )
        for _ in range(count)
    ]


def compare(
    bench: Bench, shape: Shape, name: str, count: int, repeats: int, device: str, size: int
) -> bool:
    """Print one line of the comparison; say whether both forms agree and every bar is met."""
    rate = ceiling(shape, device)
    work = jobs(shape, name, count, size)
    loose = 0.05 if device == "cuda" else 1e-4
    apart = [differences(bench.ours(job), bench.plain(job)) for job in work]
    loss, gradient = (max(column) for column in zip(*apart, strict=True))
    need = [counted(bench.model, job) for job in work]
    plain_flops, our_flops = (sum(column) for column in zip(*need, strict=True))
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        spent = {"ours": 0.0, "plain": 0.0}
        for job in work:
            spent["ours"] += timed(lambda job=job: bench.ours(job), device)
            spent["plain"] += timed(lambda job=job: bench.plain(job), device)
        rate = max(rate, ceiling(shape, device))
        for form, seconds in spent.items():
            times[form].append(seconds)
    ours, plain = statistics.median(times["ours"]), statistics.median(times["plain"])
    pairs = [p / o for o, p in zip(times["ours"], times["plain"], strict=True)]
    speed = statistics.median(pairs)
    gradients = sum(p.numel() * p.element_size() for p in bench.params.values())
    gradients = 0 if name == STAGE_1 else gradients
    held = [
        [peak(lambda job=job, form=form: form(job), device) - gradients for job in work]
        for form in (bench.ours, bench.plain)
    ]
    memory = max(held[0]) / max(held[1])
    asked = plain_flops / our_flops
    fine = loss <= loose and gradient <= loose
    met = speed >= BARS[name] and (
        name == STAGE_1 or (speed >= 0.85 * asked and memory <= (0.6 if device == "cpu" else 1.0))
    )
    print(
        f"{name:>8} | {speed:5.2f} x ({min(pairs):.2f}-{max(pairs):.2f}), bar {BARS[name]} "
        f"| FLOPs {asked:4.2f} x, reached {speed / asked:4.2f} "
        f"| peak {memory:4.2f} ({max(held[0]) / 2**20:.0f} of {max(held[1]) / 2**20:.0f} MiB) "
        f"| of {rate / 1e9:.0f} GFLOP/s {100 * our_flops / ours / rate:3.0f} % "
        f"(plain {100 * plain_flops / plain / rate:3.0f} %) "
        f"| loss {loss:.0e}, gradient {gradient:.0e}"
        f"{'' if fine else ' DIFFERENT'}{'' if met else ' (below a bar)'}",
        flush=True,
    )
    return fine and met


def self_check() -> bool:
    """Prove at a tiny size that both forms agree in loss and gradients."""
    shape = SHAPES["self-check"]
    bench, fine = prepare(shape, "cpu", Passes(packed=True)), True
    for name in (*PRESETS, "released", STAGE_1):
        for job in jobs(shape, name, 3):
            loss, gradient = differences(bench.ours(job), bench.plain(job))
            plain, ours = counted(bench.model, job)
            fine &= loss <= 1e-4 and gradient <= 1e-4 and plain > ours > 0
            print(f"{name:>8}: loss {loss:.0e}, gradient {gradient:.0e}, FLOPs {plain / ours:.2f}")
    return fine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if all forms agree and every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--self-check", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", choices=[*PRESETS, STAGE_1], action="append")
    parser.add_argument("--compile", action="store_true", help="ours with compile_layers")
    parser.add_argument("--recompute", action="store_true", help="with checkpoint_activations")
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2, help="rows a role in a micro-batch")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.self_check:
        return 0 if self_check() else 1
    device, shape = options.device, SHAPES[options.device]
    passes = Passes(True, checkpointed=options.recompute, compiled=options.compile)
    bench = prepare(shape, device, passes)
    print(
        f"{shape.layers} layers x {shape.width}, vocabulary {shape.vocabulary}, {device}, "
        f"{options.threads} thread(s), torch {torch.__version__}, "
        f"transformers {transformers.__version__}",
        flush=True,
    )
    met = [
        compare(bench, shape, name, options.batches, options.repeats, device, options.rows)
        for name in options.only or (*PRESETS, STAGE_1)
    ]
    print("every bar is met" if all(met) else "a bar is missed")
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
