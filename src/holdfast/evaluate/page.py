"""How far a model has gone from another on a fixed page of answers: likelihood and KL a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from holdfast import nn
from holdfast.data.tokens import Tokens, collate
from holdfast.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example
    from holdfast.data.tokens import Encoder

PART = 8
"""Rows in one pass; it changes speed, not numbers (within fp32 rounding)."""


def page_nll(model: PreTrainedModel, encoder: Encoder, rows: Sequence[Example]) -> float:
    """Give the negative log-likelihood a token, in nats, of all tokens of the rows' responses.

    End tokens count. Every token weighs alike: a long answer more than a short one.

    Raises:
        DataError: there is no row with a response.
    """
    return _mean(rows, encoder, (model,), lambda tokens: nn.nll(model, tokens)[0])


def page_kl(
    shipped: PreTrainedModel, model: PreTrainedModel, encoder: Encoder, rows: Sequence[Example]
) -> float:
    """Give KL(shipped || model) a token, in nats, where tokens of the rows' responses are told.

    Both models read the same ids; 0 where they say the same.

    Raises:
        DataError: there is no row with a response.
    """

    def summed(tokens: Tokens) -> Tensor:
        ends = []
        for one in (shipped, model):
            batch = nn.batch_for(one, tokens)
            ends.append(nn.emitting_states(nn.forward(one, batch).last, batch)[0])
        return nn.head_kl(shipped, ends[0], model, ends[1])

    return _mean(rows, encoder, (shipped, model), summed)


def _mean(
    rows: Sequence[Example],
    encoder: Encoder,
    models: Sequence[PreTrainedModel],
    summed: Callable[[Tokens], Tensor],
) -> float:
    """Give the mean over all told tokens of what `summed` adds up over some rows' tokens."""
    page = [row for row in rows if row.response]
    if not page:
        raise DataError("page", "no row has a response", "give rows that are answered")
    coded = [encoder.row(row) for row in page]
    were = [model.training for model in models]
    total, many = 0.0, 0
    try:
        for model in models:
            model.eval()
        with torch.no_grad():
            for first in range(0, len(coded), PART):
                some = coded[first : first + PART]
                total += float(summed(collate(some, encoder.pad_id)))
                many += sum(len(row.ids) - row.start for row in some)
    finally:
        for model, was in zip(models, were, strict=True):
            model.train(was)
    return total / many
