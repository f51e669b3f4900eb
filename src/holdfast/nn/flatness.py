"""The entropy of what a model would say next, without ever holding all its logits.

As `summed_nll`: the gradient is formed beside the value, chunk by chunk. N positions, H width,
V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from holdfast.data.tokens import Tokens
from holdfast.nn.entropy import CHUNK
from holdfast.nn.head import head_parts, is_plain_head, logit_cap, logits_of
from holdfast.nn.packing import Packed, pack, pack_for
from holdfast.nn.states import _count, _emitting, forward

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def logits_entropy(logits: Tensor) -> Tensor:
    """Give H = -sum_v p_v log p_v in nats, p = softmax: [..., V] -> [...], in fp32 at least."""
    log = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    return -(log.exp() * log).sum(-1)


def summed_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    cap: float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Give the sum of the entropies at N positions, fp32: hidden [N, H], weight [V, H], bias [V].

    Args:
        cap: soft cap c of the logits z, c tanh(z / c).
        chunk: positions at once; None fits `CHUNK`.

    The gradient exists once: a second backward pass through one result is an error.
    """
    if chunk is None:
        chunk = max(1, CHUNK.get(hidden.device.type, CHUNK["cpu"]) // (4 * weight.shape[0]))
    return _SummedEntropy.apply(hidden, weight, bias, cap, chunk, torch.is_grad_enabled())


class _SummedEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        cap: float | None,
        chunk: int,
        graph: bool,
    ) -> Tensor:
        by_hidden, by_weight, by_bias = (graph and need for need in ctx.needs_input_grad[:3])
        device, kind = hidden.device.type, hidden.dtype
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
        h, w = hidden.to(kind), weight.to(kind)
        b = None if bias is None else bias.to(kind)
        d_hidden = torch.empty_like(hidden) if by_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if by_weight else None
        d_bias = (
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and by_bias else None
        )
        value = torch.zeros((), device=hidden.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(h), chunk):
                part = slice(start, start + chunk)
                z, slope = linear(h[part], w, b).float(), None
                if cap:
                    z = torch.tanh(z / cap)
                    slope, z = 1 - z.square(), cap * z
                log = z.log_softmax(-1)
                chance = log.exp()
                own = -torch.linalg.vecdot(chance, log)
                value += own.sum()
                if not (by_hidden or by_weight or by_bias):
                    continue
                g = log.add_(own[:, None]).mul_(chance).neg_()  # dH/dz = -p (log p + H)
                if slope is not None:
                    g *= slope
                if d_bias is not None:
                    d_bias += g.sum(0)
                g = g.to(kind)
                if d_hidden is not None:
                    d_hidden[part] = (g @ w).to(d_hidden.dtype)
                if d_weight is not None:
                    d_weight += g.T @ h[part]
        ctx.found = (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
        )
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.found is None:
            raise RuntimeError("the gradient of summed_entropy was already taken")
        found, ctx.found = ctx.found, None
        scaled = [None if one is None else one.mul_(outer[0].to(one.dtype)) for one in found]
        return *scaled, None, None, None


def next_entropy(
    model: PreTrainedModel, tokens: Tokens, *, everywhere: bool = False
) -> tuple[Tensor, int]:
    """Give the summed entropy of the next token and at how many positions it was taken.

    Where a labelled token is emitted, or, `everywhere`, at each token of each row: padding and
    other rows add nothing.
    """
    batch = pack(tokens.rows) if pack_for(model) else tokens
    last = forward(model, batch).last
    if not everywhere:
        last = _emitting(last, batch)[0]
    elif not isinstance(batch, Packed):
        last = last[batch.mask.bool().to(last.device)]
    _count(model.get_output_embeddings().weight.numel(), len(last), model, last.requires_grad)
    if not is_plain_head(model):
        return logits_entropy(logits_of(model, last)).sum(), len(last)
    return summed_entropy(*head_parts(model, last), cap=logit_cap(model)), len(last)
