"""Multiple choice by log-likelihood: the option the model finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from holdfast import nn
from holdfast.data.example import Example
from holdfast.data.tokens import Encoder, collate
from holdfast.nn.head import per_row

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def choose(
    model: PreTrainedModel, encoder: Encoder, rows: Sequence[Example], *, batch: int = 128
) -> list[int]:
    """Give, for each row, the index of the option with the highest log-probability a token.

    Options are `row.known.options`, each scored as the response with its end token (as lm-eval's
    `acc_norm` divides by length, here by tokens). Ties go to the first option.
    """
    coded = [
        (number, encoder.row(replace(row, response=option)))
        for number, row in enumerate(rows)
        for option in row.known.options
    ]
    means: list[list[float]] = [[] for _ in rows]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for first in range(0, len(coded), batch):
                part = coded[first : first + batch]
                tokens = collate([row for _, row in part], encoder.pad_id)
                values, index = nn.log_probs(model, tokens)
                sums = per_row(values, index, len(part))
                for (number, row), value in zip(part, sums.tolist(), strict=True):
                    means[number].append(value / (len(row.ids) - row.start))
    finally:
        model.train(was_training)
    return [max(range(len(some)), key=lambda i: (some[i], -i)) for some in means]
