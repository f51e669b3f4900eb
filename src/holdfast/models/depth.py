"""The cross-entropy that every depth of the model would give, read through its own head.

N labelled tokens, L blocks, H hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data.tokens import Tokens
from holdfast.models.lens import final_norm, head_nll
from holdfast.models.packing import pack, pack_for
from holdfast.models.states import _emitting, blocks, forward

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def depth_nll(model: PreTrainedModel, tokens: Tokens) -> tuple[Tensor, int]:
    """Give -log p(label) summed over labelled tokens and blocks, in fp32, and how many: N x L.

    A block's states pass the final norm and the head; the last block's are the model's own
    output, normed once. One chunked product serves all blocks, so neither the logits nor a head's
    gradient for each block are ever held.
    """
    batch = pack(tokens.rows) if pack_for(model) else tokens
    norm, depth = final_norm(model), len(blocks(model))
    kept: list[Tensor] = []

    def see(number: int, states: Tensor) -> None:
        emitting = _emitting(states, batch)[0]
        kept.append(emitting if number == depth - 1 else norm(emitting))

    last = forward(model, batch, see=see).last
    labels = _emitting(last, batch)[1].repeat(depth)
    return head_nll(model, torch.cat(kept), labels), len(labels)
