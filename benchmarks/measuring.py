"""What the benchmarks share: model and row shapes, FLOP counts, times and peaks of memory."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from holdfast.data.tokens import Row, Tokens, collate
from holdfast.nn.states import blocks


@dataclass(frozen=True)
class Shape:
    """A model's size and the lengths of its rows (log-uniform)."""

    layers: int
    width: int
    inner: int
    heads: int
    shared: int
    vocabulary: int
    prompts: tuple[int, int] = (50, 500)
    responses: tuple[int, int] = (100, 400)
    refusals: tuple[int, int] = (20, 30)


SHAPES = {
    "cpu": Shape(8, 512, 1536, 8, 4, 32_000),
    "cuda": Shape(12, 4096, 12_288, 32, 8, 151_936),
    "self-check": Shape(2, 32, 64, 4, 2, 97, (5, 20), (4, 12), (3, 5)),
}
"""`cuda`: Qwen3-8B's width and vocabulary; 12 of its 36 layers, so that the plain form fits."""


def build(shape: Shape, device: str, kind: torch.dtype = torch.float32) -> Any:
    """Make a random model."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.shared,
        head_dim=shape.width // shape.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    with torch.device(device):
        model = Qwen3ForCausalLM(config)
    return model.to(kind).eval()


def length(span: tuple[int, int], draw: random.Random) -> int:
    """Draw a length, log-uniform over the span."""
    return round(math.exp(draw.uniform(*map(math.log, span))))


def words(shape: Shape, count: int, draw: random.Random) -> tuple[int, ...]:
    """Draw random tokens."""
    return tuple(draw.randrange(shape.vocabulary) for _ in range(count))


def rows(shape: Shape, count: int, answers: tuple[int, int], draw: random.Random) -> Tokens:
    """Draw rows of random tokens; a trigger stands after the two tokens of a role tag."""
    made = []
    for _ in range(count):
        start = length(shape.prompts, draw)
        ids = words(shape, start + length(answers, draw), draw)
        made.append(Row(ids, start, (2, start - 1), False))
    return collate(made, 0)


def flops(
    model: Any, lengths: Sequence[int], heads: float, passes: float, head_passes: float
) -> float:
    """Count rows of `lengths` through the body, and `heads` positions through the head."""
    config = model.config
    body = sum(p.numel() for p in blocks(model).parameters())
    head = config.vocab_size * config.hidden_size
    attended = 2.0 * config.num_attention_heads * config.head_dim * config.num_hidden_layers
    scores = sum(attended * n * n for n in lengths)
    return passes * (2.0 * body * sum(lengths) + scores) + head_passes * 2.0 * head * heads


def ceiling(shape: Shape, device: str) -> float:
    """Measure the best rate of this model's own kind of matrix product, FLOP/s."""
    tokens = 8192 if device == "cuda" else 1024
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    a = torch.randn(tokens, shape.width, device=device, dtype=kind)
    b = torch.randn(shape.width, shape.inner, device=device, dtype=kind)
    best = min(timed(lambda: [a @ b for _ in range(5)], device) for _ in range(8))
    return 5 * 2.0 * tokens * shape.width * shape.inner / best


def timed(
    run: Callable[[], Any], device: str, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Give the seconds one call takes by a clock."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak(run: Callable[[], Any], device: str) -> float:
    """Give the largest sum of bytes of live tensors made during one call."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return float(torch.cuda.max_memory_allocated() - before)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    moves = [
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    live = most = 0
    for _, size in sorted(moves, key=lambda move: move[0]):
        live += size
        most = max(most, live)
    return float(most)


def differences(
    ours: tuple[float, dict[str, Tensor]], plain: tuple[float, dict[str, Tensor]]
) -> tuple[float, float]:
    """Give the relative difference of the losses, and of the gradients by their whole norm."""
    square = sum(float(g.double().square().sum()) for g in plain[1].values())
    apart = sum(
        float((ours[1][name].double() - g.double()).square().sum()) for name, g in plain[1].items()
    )
    return abs(ours[0] - plain[0]) / abs(plain[0]), (apart / square) ** 0.5
