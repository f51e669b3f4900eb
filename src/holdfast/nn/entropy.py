"""Cross-entropy of a large vocabulary without ever holding all its logits.

The gradient is formed beside the loss, chunk by chunk, so no logit is kept for the backward pass
and none is computed twice. N positions, H width, V vocabulary, C positions a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

CHUNK = {"cpu": 2**25, "cuda": 2**29}
"""Bytes of fp32 logits held at once; on a GPU enough rows to fill it at 150,000 words."""


def summed_nll(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    cap: float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Give the sum of -log p(label), fp32: hidden [N, H], weight [V, H], bias [V], labels [N].

    Args:
        cap: soft cap c of the logits z, c tanh(z / c).
        chunk: positions at once; None fits `CHUNK`.

    The gradient exists once: a second backward pass through one result is an error.
    """
    if chunk is None:
        chunk = max(1, CHUNK.get(hidden.device.type, CHUNK["cpu"]) // (4 * weight.shape[0]))
    return _SummedNll.apply(hidden, weight, bias, labels, cap, chunk, torch.is_grad_enabled())


class _SummedNll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
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
        loss = torch.zeros((), device=hidden.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(h), chunk):
                part = slice(start, start + chunk)
                z, own = linear(h[part], w, b).float(), labels[part]
                slope = None
                if cap:
                    z = torch.tanh(z / cap)
                    slope, z = 1 - z.square(), cap * z
                rows = torch.arange(len(own), device=own.device)
                z -= z.amax(1, keepdim=True)
                picked = z[rows, own]
                size = z.exp_().sum(1, keepdim=True)
                loss += (size.log()[:, 0] - picked).sum()
                if not (by_hidden or by_weight or by_bias):
                    continue
                z /= size
                z[rows, own] -= 1
                if slope is not None:
                    z *= slope
                if d_bias is not None:
                    d_bias += z.sum(0)
                g = z.to(kind)
                if d_hidden is not None:
                    d_hidden[part] = (g @ w).to(d_hidden.dtype)
                if d_weight is not None and kind == torch.float32:
                    d_weight.addmm_(g.T, h[part])
                elif d_weight is not None:
                    d_weight += g.T @ h[part]
        ctx.found = (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
        )
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.found is None:
            raise RuntimeError("the gradient of summed_nll was already taken")
        found, ctx.found = ctx.found, None
        scaled = [None if one is None else one.mul_(outer[0].to(one.dtype)) for one in found]
        return *scaled, None, None, None, None
