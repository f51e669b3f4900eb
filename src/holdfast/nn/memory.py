"""What a run needs in memory, told from headers before any weight is read.

An estimate: exact for weights, gradients, moments and copies; for activations a fitted count of
what autograd keeps (measured: 219 KB a token and layer at 8B shape in bf16).
What the allocator loses between blocks, and attention's score matrices where no fused kernel runs,
are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from holdfast.api import Loop
from holdfast.errors import ModelError
from holdfast.nn.files import ModelFiles, config_of, header

_WEIGHT = {"fp32": 4, "fp32_master": 4, "bf16_kahan": 2, "bf16_stochastic": 2, "bf16_pure": 2}
_MOMENTS = {"fp32": 8, "fp32_master": 8, "bf16_kahan": 6, "bf16_stochastic": 4, "bf16_pure": 4}
"""AdamW's two moments, and Kahan's memory, in bytes a trained weight."""
_COMPUTE = {"fp32": 4, "fp32_master": 2, "bf16_kahan": 2, "bf16_stochastic": 2, "bf16_pure": 2}
GRADIENT = 4
"""Bytes of a weight's gradient: summed in fp32 over a step's micro-batches."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a checkpoint's config and headers say: counts of weights, and sizes."""

    weights: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int
    context: int | None


def shape(files: ModelFiles) -> Shape:
    """Read a model's shape from its config and the headers of the files that are loaded."""
    config = config_of(files.folder)
    text = config.get("text_config") or config

    def said(*names: str) -> int:
        """Give a size by the first of an architecture's names for it, 0 where it has none."""
        return next((int(text[name]) for name in names if text.get(name)), 0)

    hidden, vocabulary = said("hidden_size", "n_embd", "d_model"), said("vocab_size")
    return Shape(
        _weights(files, vocabulary, text.get("tie_word_embeddings")),
        said("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        hidden,
        said("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
        vocabulary,
        said("max_position_embeddings", "n_positions", "max_seq_len") or None,
    )


def _weights(files: ModelFiles, vocabulary: int, tied: bool | None) -> int:
    """Count the weights; a head that is saved beside the embedding it is tied to, once."""
    entries = [entry for path in files.shards() for entry in header(path).values()]
    count = sum(math.prod(entry.shape) for entry in entries)
    tables = [e.shape for e in entries if len(e.shape) == 2 and e.shape[0] == vocabulary]
    doubled = sum(math.prod(one) for one in tables) - sum(math.prod(one) for one in set(tables))
    if doubled and tied is None:  # each architecture has a default of its own
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(files.folder, local_files_only=True)
        tied = config.get_text_config().tie_word_embeddings
    return count - doubled if tied else count


def needed(
    of: Shape, loop: Loop | None, *, copies: int = 0, rows: int = 0, longest: int = 0, said: int = 0
) -> dict[str, float]:
    """Give what a run needs, in bytes, by what it is for.

    Args:
        loop: how it trains; None for a run without gradients, in fp32.
        copies: frozen copies of the model beside the trained one (a teacher).
        rows: rows in one forward pass.
        longest: tokens of the longest row.
        said: response tokens of the longest row, where logits are needed.
    """
    if loop is None:
        return {"weights": 4.0 * of.weights * (1 + copies)}
    weight, compute = _WEIGHT[loop.precision], _COMPUTE[loop.precision]
    trained: float = of.weights
    moments = _MOMENTS[loop.precision]
    if loop.lora is not None:  # two thin fp32 matrices beside about seven square ones a layer
        trained = of.layers * 7 * loop.lora.rank * (of.hidden + of.inner)
        moments = 8
    found = {
        "weights": float(weight * of.weights) + (4 * trained if loop.lora else 0),
        "gradients": GRADIENT * trained,
        "moments": moments * trained,
        "activations": float(
            rows * longest * of.layers * compute * (12 * of.hidden + 5 * of.inner)
            + 3 * 4 * rows * said * of.vocabulary
        ),
    }
    if copies:
        found["teacher"] = float(weight * of.weights * copies)
    return found


def available(device: str = "cpu") -> float | None:
    """Give the bytes that are free on a device, or None where the system does not say."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with Path("/proc/meminfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def check_memory(
    parts: dict[str, float],
    free: float | None,
    loop: Loop | None,
    *,
    where: str = "memory",
) -> None:
    """Refuse what cannot fit.

    Args:
        where: what the error begins with.

    Raises:
        ModelError: more is needed than is free; says how much for what, and what would need less.
    """
    total = sum(parts.values())
    if free is None or total <= free:
        return
    each = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size >= total / 100)
    advice = "use a smaller model"
    if loop is not None:
        smaller = ["a smaller loop.micro_batch"]
        if loop.lora is None:
            less = "loop.precision=bf16_kahan or " if loop.precision.startswith("fp32") else ""
            smaller.insert(0, f"{less}loop.lora")
        advice = f"use {', or '.join(smaller)}"
    under = f" under {loop.precision}" if loop is not None else ""
    raise ModelError(
        where, f"about {_gib(total)} GiB needed{under} ({each}), {_gib(free)} free", advice
    )


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g}"
