"""The cross-entropy of saying one and the same token everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data.tokens import IGNORE, Tokens
from holdfast.nn.packing import pack, pack_for
from holdfast.nn.states import forward, response_nll

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def constant_nll(model: PreTrainedModel, tokens: Tokens, token: int) -> tuple[Tensor, int]:
    """Give -log p(token | what came before) summed over the labelled positions, and their number.

    The model reads the rows as they are; only what is asked of it is `token`, at each position.
    """
    batch = pack(tokens.rows) if pack_for(model) else tokens
    states = forward(model, batch)
    labels = torch.where(batch.labels == IGNORE, IGNORE, token)
    return response_nll(model, states.last, replace(batch, labels=labels))
