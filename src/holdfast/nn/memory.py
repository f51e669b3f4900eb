"""What a run needs in memory, told from headers before any weight is read.

An estimate: exact for weights, gradients, moments and copies; for activations a fitted count of
what autograd keeps (measured: 219 KB a token and layer at 8B shape in bf16).
What the allocator loses between blocks, and attention's score matrices where no fused kernel runs,
are not counted.
"""

from __future__ import annotations

import math
from pathlib import Path

from holdfast.api import Loop
from holdfast.errors import ModelError
from holdfast.nn.files import ModelFiles, config_of, header
from holdfast.nn.shapes import AbsentFiles, Shape, attention_of

_WEIGHT = {"fp32": 4, "fp32_master": 4, "bf16_kahan": 2, "bf16_stochastic": 2, "bf16_pure": 2}
_MOMENTS = {"fp32": 8, "fp32_master": 8, "bf16_kahan": 6, "bf16_stochastic": 4, "bf16_pure": 4}
"""AdamW's two moments, and Kahan's memory, in bytes a trained weight."""
_COMPUTE = {"fp32": 4, "fp32_master": 2, "bf16_kahan": 2, "bf16_stochastic": 2, "bf16_pure": 2}
GRADIENT = 4
"""Bytes of a weight's gradient: summed in fp32 over a step's micro-batches."""


def shape(files: ModelFiles) -> Shape:
    """Read a model's shape from its config and the headers of the files that are loaded."""
    if isinstance(files, AbsentFiles):
        return files.shape
    config = config_of(files.folder)
    text = config.get("text_config") or config

    def said(*names: str) -> int:
        """Give a size by the first of an architecture's names for it, 0 where it has none."""
        return next((int(text[name]) for name in names if text.get(name)), 0)

    hidden, vocabulary = said("hidden_size", "n_embd", "d_model"), said("vocab_size")
    inner = said("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    weights, tables = _weights(files, vocabulary, text.get("tie_word_embeddings"))
    return Shape(
        weights,
        said("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        hidden,
        inner,
        vocabulary,
        said("max_position_embeddings", "n_positions", "max_seq_len") or None,
        tables,
        *attention_of(text, hidden, inner),
    )


def _weights(files: ModelFiles, vocabulary: int, tied: bool | None) -> tuple[int, int]:
    """Count the weights, and matrices of the vocabulary; a head that is saved beside the embedding
    it is tied to, once.
    """
    entries = [entry for path in files.shards() for entry in header(path).values()]
    count = sum(math.prod(entry.shape) for entry in entries)
    tables = [e.shape for e in entries if len(e.shape) == 2 and e.shape[0] == vocabulary]
    doubled = sum(math.prod(one) for one in tables) - sum(math.prod(one) for one in set(tables))
    if doubled and tied is None:  # each architecture has a default of its own
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(files.folder, local_files_only=True)
        tied = config.get_text_config().tie_word_embeddings
    return (count - doubled, 1) if tied and doubled else (count, max(1, len(tables)))


def trained(of: Shape, loop: Loop) -> float:
    """Give how many numbers a loop trains: two thin matrices beside about seven square ones a
    layer, or all weights.
    """
    if loop.lora is not None:
        return of.layers * 7 * loop.lora.rank * (of.hidden + of.inner)
    return of.weights - of.besides


def weight_width(loop: Loop) -> int:
    """Give the bytes of a weight under a loop."""
    return _WEIGHT[loop.precision]


def compute_width(loop: Loop) -> int:
    """Give the bytes of the numbers that a loop's products are made of."""
    return _COMPUTE[loop.precision]


def needed(
    of: Shape,
    loop: Loop | None,
    *,
    copies: int = 0,
    vectors: int = 0,
    rows: int = 0,
    longest: int = 0,
    said: int = 0,
) -> dict[str, float]:
    """Give what a run needs, in bytes, by what it is for.

    Args:
        loop: how it trains; None for a run without gradients, in fp32.
        copies: frozen copies of the model beside the trained one (a teacher).
        vectors: what a step holds beside its gradient that is as large, in fp32.
        rows: rows in one forward pass.
        longest: tokens of the longest row.
        said: response tokens of the longest row, where logits are needed.
    """
    if loop is None:
        return {"weights": 4.0 * of.weights * (1 + copies)}
    weight, compute = _WEIGHT[loop.precision], _COMPUTE[loop.precision]
    moving = trained(of, loop)
    moments = 8 if loop.lora is not None else _MOMENTS[loop.precision]  # an adapter is in fp32
    found = {
        "weights": float(weight * of.weights) + (4 * moving if loop.lora else 0),
        "gradients": GRADIENT * moving,
        "moments": moments * moving,
        "activations": float(
            rows * longest * compute * _kept(of, loop) + 3 * 4 * rows * said * of.vocabulary
        ),
    }
    if vectors:
        found["vectors"] = GRADIENT * moving * vectors
    if copies:
        found["teacher"] = float(weight * of.weights * copies)
    return found


def _kept(of: Shape, loop: Loop) -> int:
    """Give the numbers that autograd keeps of a token: of all blocks, or each one's input and all
    of the one that is run again.
    """
    block = 12 * of.hidden + 5 * of.inner
    return of.layers * of.hidden + block if loop.checkpoint_activations else of.layers * block


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
    separable: bool = True,
) -> None:
    """Refuse what cannot fit.

    Args:
        where: what the error begins with.
        separable: whether micro-batches leave the method's updates as they are; else a smaller one
            is not advised.

    Raises:
        ModelError: more is needed than is free; says how much for what, and what would need less.
    """
    total = sum(parts.values())
    if free is None or total <= free:
        return
    each = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items() if size >= total / 100)
    advice = "use a smaller model"
    if loop is not None:
        smaller = ["a smaller loop.micro_batch" if separable else "a smaller model"]
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
