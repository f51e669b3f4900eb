"""How far activations are from Gaussian noise: a kernel distance in matrix products.

R rows, W slots a row, H width, M tokens. Nothing of size [2R, 2R, W H] is ever held, and the
gradient is formed beside the value, so only [M, H] waits for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

KERNELS = 5
"""Gaussian kernels in the sum; source: RepNoise's released loss."""


def noise_distance(
    states: Tensor, noise: Tensor, slot: Tensor, rows: int, width: int, *, kernels: int = KERNELS
) -> Tensor:
    """Give MMD^2 between rows of activations and rows of noise, in fp32 (fp64 stays fp64).

    A row is one vector of W x H numbers, 0 in the slots it lacks. With D the squared distances
    of the 2R rows of both kinds, K = sum_i exp(-D / (2^i w)), w the mean of D off its diagonal
    divided by 2^(kernels // 2) and held constant, and MMD^2 = mean K_xx + mean K_zz - 2 mean K_xz,
    the diagonals included (a biased estimate: 0 for equal sets, never less).

    Args:
        states: [M, H] activations of the chosen tokens.
        noise: [M, H] standard normal draws, constants.
        slot: [M] where each token stands, row x W + slot, each place once.
        rows: R.
        width: W.
        kernels: how many widths, each twice the one before.

    Returns:
        [], 0 without any token.
    """
    return _ToNoise.apply(
        states, noise.detach(), slot, rows, width, kernels, torch.is_grad_enabled()
    )


class _ToNoise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  (torch's own: what is put on it is kept)
        states: Tensor,
        noise: Tensor,
        slot: Tensor,
        rows: int,
        width: int,
        kernels: int,
        graph: bool,
    ) -> Tensor:
        kind = torch.float64 if states.dtype == torch.float64 else torch.float32
        tokens, hidden = states.shape
        ctx.found = None
        if not tokens:
            ctx.found = torch.zeros_like(states)
            return states.new_zeros((), dtype=kind)
        with torch.autocast(states.device.type, enabled=False):
            both = states.new_zeros(2 * rows * width, hidden, dtype=kind)
            both.index_copy_(0, slot, states.to(kind))
            both.index_copy_(0, slot + rows * width, noise.to(kind))
            both = both.view(2 * rows, width * hidden)
            gram = both @ both.T
            square = gram.diagonal()
            apart = (square[:, None] + square[None] - 2 * gram).clamp_(min=0).fill_diagonal_(0)
            n = 2 * rows
            scale = apart.sum() / (n * n - n) / 2 ** (kernels // 2)
            widths = scale.clamp(min=torch.finfo(kind).tiny) * 2.0 ** torch.arange(
                kernels, dtype=kind, device=states.device
            )
            each = torch.exp(-apart / widths[:, None, None])
            sign = torch.full((n,), 1.0 / rows, dtype=kind, device=states.device)
            sign[rows:] *= -1
            value = sign @ each.sum(0) @ sign
            if graph and ctx.needs_input_grad[0]:
                pull = -(each / widths[:, None, None]).sum(0)[:rows] * sign[:rows, None] * sign
                found = (-4 * pull) @ both
                found.addcmul_(both[:rows], 4 * pull.sum(1, keepdim=True))
                ctx.found = found.view(rows * width, hidden).index_select(0, slot).to(states.dtype)
        return value

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  (as above)
        *outer: Tensor,
    ) -> tuple[Tensor | None, ...]:
        if ctx.found is None:
            raise RuntimeError("the gradient of noise_distance was already taken")
        found, ctx.found = ctx.found, None
        return found.mul_(outer[0].to(found.dtype)), None, None, None, None, None, None
