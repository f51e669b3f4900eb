"""The cross-entropy that every depth of the model would give, read through its own head.

N labelled tokens, L blocks, H hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Linear, Module

from holdfast.data.tokens import Tokens
from holdfast.errors import ModelError
from holdfast.models.entropy import summed_nll
from holdfast.models.packing import pack, pack_for
from holdfast.models.states import _cap, _count, _emitting, blocks, body, forward

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def final_norm(model: PreTrainedModel) -> Module:
    """Give the norm between the last block and the head, found by its shape, not by its name.

    Raises:
        ModelError: the body has no child whose parameters are all of shape [H].
    """
    width = model.config.get_text_config().hidden_size
    norms = []
    for child in body(model).children():
        shapes = {tuple(p.shape) for p in child.parameters()}
        if shapes == {(width,)}:
            norms.append(child)
    if not norms:
        raise ModelError("model", "no norm before the head", "use a decoder-only model")
    return norms[-1]  # one that follows the embeddings comes first


def head_nll(model: PreTrainedModel, states: Tensor, labels: Tensor) -> Tensor:
    """Give the sum of -log p(label) of normed states, [M, H] and [M] -> [], in fp32.

    States of several layers belong in one call: the head's gradient [V, H] then exists once.
    """
    head, cap = model.get_output_embeddings(), _cap(model)
    _count(head.weight.numel(), len(labels), model, states.requires_grad)
    if type(head) is Linear and not head._forward_hooks and not head._forward_pre_hooks:
        return summed_nll(states, head.weight, head.bias, labels, cap=cap)
    logits = head(states).float()
    if cap:
        logits = cap * torch.tanh(logits / cap)
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


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
