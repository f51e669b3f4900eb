"""The entropy of what a model would say next: what TAR's attacker is kept from lowering."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data.tokens import Packed, Tokens
from holdfast.nn.head import (
    emitting_states,
    head_parts,
    is_plain_head,
    logit_cap,
    logits_of,
    summed_entropy,
)
from holdfast.nn.passes import batch_for, count
from holdfast.nn.states import forward

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def logits_entropy(logits: Tensor) -> Tensor:
    """Give H = -sum_v p_v log p_v in nats, p = softmax: [..., V] -> [...], in fp32 at least."""
    log = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -(log.exp() * log).sum(-1)


def next_entropy(
    model: PreTrainedModel, tokens: Tokens, *, everywhere: bool = False
) -> tuple[Tensor, int]:
    """Give the summed entropy of the next token and at how many positions it was taken.

    Where a labelled token is emitted, or, `everywhere`, at each token of each row: padding and
    other rows add nothing.
    """
    batch = batch_for(model, tokens)
    last = forward(model, batch).last
    if not everywhere:
        last = emitting_states(last, batch)[0]
    elif not isinstance(batch, Packed):
        last = last[batch.mask.bool().to(last.device)]
    count(model.get_output_embeddings().weight.numel(), len(last), model, last.requires_grad)
    if not is_plain_head(model):
        return logits_entropy(logits_of(model, last)).sum(), len(last)
    return summed_entropy(*head_parts(model, last), cap=logit_cap(model)), len(last)
