"""Harden a model in memory, from Python: the door for those who bring a model and a pool."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.api import Defence
from holdfast.data.example import Side
from holdfast.data.format import Format
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.disk import whole_file
from holdfast.nn.coding import encoder as coded
from holdfast.nn.weights import tensors
from holdfast.train.checkpoint import claim
from holdfast.train.loop import Progress
from holdfast.train.training import harden

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def apply(
    defence: Defence,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pool: Pool,
    *,
    format: Format | str,
    seed: int = 0,
    original: Mapping[str, Tensor] | None = None,
    work: Path | None = None,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """Harden a model in memory and give it back: the same object, changed.

    Args:
        format: the prompt format: plain, chat, a .jinja file, or a `Format` that says more; never
            guessed, as in the commands.
        seed: decides every draw: rows, order, noise.
        original: the tensors of the public original by name, for methods that need it.
        work: folder for checkpoints, `log.jsonl` and `diagnostics.json`; the same call, with the
            model as it was at first, continues from them.
        progress: called after every step with the part's name, the steps done and those in all.

    Raises:
        ConfigError: `work` holds another run, and what it differs in.
        DataError: a row is longer than the model's context, or there are too few.
        ModelError, TrainingError: see their texts.
    """
    encoder = coded(model, tokenizer, format, where="apply")
    if work is not None:
        claim(work, _identity(defence, model, encoder, pool, seed, original), "apply.work")
    sources = {"original": original} if original is not None else {}
    done = harden(
        defence, model, encoder, pool, seed=seed, work=work, sources=sources, progress=progress
    )
    if work is not None:
        with whole_file(work / "diagnostics.json") as part:
            part.write_text(json.dumps(done.diagnostics, indent=2))
    return done.model


def _identity(
    defence: Defence,
    model: PreTrainedModel,
    encoder: Encoder,
    pool: Pool,
    seed: int,
    original: Mapping[str, Tensor] | None,
) -> dict[str, object]:
    """Give everything that decides what the run will give."""
    words = json.dumps(
        [encoder.tokenizer.backend_tokenizer.to_str(), encoder.tokenizer.chat_template]
    )
    rows = sorted(
        [row.row_id, row.role, side, row.group, row.category]
        for side in Side
        for row in pool.rows(side)
    )
    return {
        "method": defence.identity(),
        "weights": _hash(tensors(model)),
        "original": None if original is None else _hash(original),
        "format": encoder.format.identity(),
        "tokenizer": hashlib.sha256(words.encode()).hexdigest(),
        "seed": seed,
        "rows": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
    }


def _hash(weights: Mapping[str, Tensor]) -> str:
    """Give the SHA-256 of every tensor's name, shape, dtype and bytes."""
    found = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach()
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
