"""The cross-entropy of saying one and the same token everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data.tokens import IGNORE, Tokens
from holdfast.nn.head import response_nll
from holdfast.nn.passes import batch_for
from holdfast.nn.states import forward

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def constant_nll(model: PreTrainedModel, tokens: Tokens, token: int) -> tuple[Tensor, int]:
    """Give -log p(token | what came before) summed over the labelled positions, and their number.

    The model reads the rows as they are; only what is asked of it is `token`, at each position.
    """
    batch = batch_for(model, tokens)
    states = forward(model, batch)
    labels = torch.where(batch.labels == IGNORE, IGNORE, token)
    return response_nll(model, states.last, replace(batch, labels=labels))
