"""The squared distance of hidden states at chosen tokens, with a gradient that holds no more."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Reduce = Literal["mean", "sum"]


def matched_distance(
    student: Tensor,
    teacher: Tensor,
    at: Tensor,
    owner: Tensor,
    rows: int,
    *,
    over_hidden: Reduce = "mean",
    over_tokens: Reduce = "mean",
    relative: bool = False,
) -> Tensor:
    """Give ||h_s - h_t||^2 of one layer for each row, in fp32; the teacher is a constant.

    Args:
        student: [N, H] states of a packed batch.
        teacher: [M, H] states of the matched tokens only.
        at: [M] where they stand in the student's batch, each once.
        owner: [M] the row of each.
        rows: how many rows, R; one without any token gives 0.
        relative: divide by the teacher's own mean square at those tokens.

    Returns:
        [R].
    """
    count = torch.zeros(rows, device=owner.device).index_add_(
        0, owner, torch.ones(len(owner), device=owner.device)
    )
    scale = torch.ones(rows, device=owner.device)
    if over_hidden == "mean":
        scale = scale / student.shape[-1]
    if over_tokens == "mean":
        scale = scale / count.clamp(min=1)
    if relative:
        size = teacher.detach().float().square().sum(-1)
        if over_hidden == "mean":
            size = size / student.shape[-1]
        sums = torch.zeros_like(count).index_add_(0, owner, size)
        scale = scale / (sums / count.clamp(min=1)).clamp(min=1e-12)
    return _Matched.apply(student, teacher.detach(), at, owner, scale)


class _Matched(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, at: Tensor, owner: Tensor, scale: Tensor
    ) -> Tensor:
        apart = student.index_select(0, at).float() - teacher.float()
        weight = scale[owner]
        ctx.save_for_backward(apart, at, owner, weight)
        ctx.like = (student.shape, student.dtype)
        square = torch.linalg.vecdot(apart, apart)
        return torch.zeros_like(scale).index_add_(0, owner, weight * square)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        apart, at, owner, weight = ctx.saved_tensors
        shape, kind = ctx.like
        found = apart.new_zeros(shape, dtype=kind)
        slope = (2 * weight * outer[0][owner])[:, None]
        found.index_copy_(0, at, (apart * slope).to(kind))
        return found, None, None, None, None
