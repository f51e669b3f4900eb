"""KL divergence between two models' next-token distributions without ever holding all logits.

As `entropy`: the gradient is formed beside the value, chunk by chunk. N positions, H width,
V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from holdfast.nn.entropy import CHUNK
from holdfast.nn.head import head_parts, logit_cap
from holdfast.nn.states import _count

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def head_kl(
    old: PreTrainedModel, old_last: Tensor, new: PreTrainedModel, new_last: Tensor
) -> Tensor:
    """Give the sum of KL(p_old || p_new) in nats from final states [N, H] of both models.

    The old side is a constant; each model's own head is read.
    """
    first, second = old.get_output_embeddings(), new.get_output_embeddings()
    with torch.no_grad():
        _count(first.weight.numel(), len(old_last), old, inputs_need_grad=False)
    _count(second.weight.numel(), len(new_last), new, new_last.requires_grad)
    return summed_kl(*head_parts(old, old_last), *head_parts(new, new_last), cap=logit_cap(new))


def summed_kl(
    old: Tensor,
    old_weight: Tensor,
    old_bias: Tensor | None,
    new: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    cap: float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Give the sum over N of KL(p || q), fp32: p from `old`, a constant; q from `new`.

    Args:
        old, new: [N, H] final states; weights [V, H], biases [V].
        cap: soft cap c of both models' logits z, c tanh(z / c).
        chunk: positions at once; None fits `entropy.CHUNK`, two sets of logits counted.

    The gradient exists once: a second backward pass through one result is an error.
    """
    if chunk is None:
        chunk = max(1, CHUNK.get(new.device.type, CHUNK["cpu"]) // (8 * weight.shape[0]))
    fixed = (old.detach(), old_weight.detach(), None if old_bias is None else old_bias.detach())
    return _SummedKl.apply(new, weight, bias, fixed, cap, chunk, torch.is_grad_enabled())


class _SummedKl(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        new: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        fixed: tuple[Tensor, Tensor, Tensor | None],
        cap: float | None,
        chunk: int,
        graph: bool,
    ) -> Tensor:
        by_new, by_weight, by_bias = (graph and need for need in ctx.needs_input_grad[:3])
        device, kind = new.device.type, new.dtype
        if torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
        h, w = new.to(kind), weight.to(kind)
        b = None if bias is None else bias.to(kind)
        old, old_w, old_b = fixed[0].to(kind), fixed[1].to(kind), fixed[2]
        old_b = None if old_b is None else old_b.to(kind)
        d_new = torch.empty_like(new) if by_new else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if by_weight else None
        d_bias = (
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and by_bias else None
        )
        loss = torch.zeros((), device=new.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(h), chunk):
                part = slice(start, start + chunk)
                z, slope = _capped(linear(h[part], w, b).float(), cap)
                log_q = z.log_softmax(-1)
                log_p = _capped(linear(old[part], old_w, old_b).float(), cap)[0].log_softmax(-1)
                p = log_p.exp()
                loss += (p * (log_p - log_q)).sum()
                if not (by_new or by_weight or by_bias):
                    continue
                g = log_q.exp_().sub_(p)  # the gradient by the logits: q - p
                if slope is not None:
                    g *= slope
                if d_bias is not None:
                    d_bias += g.sum(0)
                g = g.to(kind)
                if d_new is not None:
                    d_new[part] = (g @ w).to(d_new.dtype)
                if d_weight is not None:
                    d_weight += g.T @ h[part]
        ctx.found = (
            d_new,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.found is None:
            raise RuntimeError("the gradient of summed_kl was already taken")
        found, ctx.found = ctx.found, None
        scaled = [None if one is None else one.mul_(outer[0].to(one.dtype)) for one in found]
        return *scaled, None, None, None, None


def _capped(z: Tensor, cap: float | None) -> tuple[Tensor, Tensor | None]:
    """Give soft-capped logits and their slope; both as they are without a cap."""
    if not cap:
        return z, None
    t = torch.tanh(z / cap)
    return cap * t, 1 - t.square()
