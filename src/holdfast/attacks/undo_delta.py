"""Undo the alignment delta: take the main directions of released minus original out again.

Free for whoever has the public original. A delta made by a low-rank adapter has as many singular
values above noise as the adapter's rank, and is undone whole at that rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BeforeValidator, Field

from holdfast import nn
from holdfast.api import ALL, Control, Count, Run, WeightAttack
from holdfast.api.fields import NO_EFFECT, AsTuple
from holdfast.api.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Rank = Annotated[Count, BeforeValidator(lambda value: ALL if value == "all" else value)]


def without_top(released: Tensor, original: Tensor, rank: int) -> Tensor:
    """Give W - sum over i <= r of s_i u_i v_i^T, [..., out, in], in fp32.

    D = W - W_original = U S V^T. A vector is one direction, so its delta goes at any
    rank; at `ALL` the original itself is given. A row without a delta stays as it is.
    """
    if rank >= ALL:
        return original
    delta = released.float() - original.float()
    if delta.ndim < 2:
        return original
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    undone = released.float() - (u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :]
    same = (delta == 0).all(-1, keepdim=True)  # its row of U is 0 but for rounding
    return torch.where(same, released.float(), undone)


class UndoDelta(WeightAttack):
    """W <- W - the r largest singular directions of W - W_original, matrix by matrix."""

    control: ClassVar[Control] = Control.WEIGHTS
    unit: ClassVar[str] = "rank"
    needs: ClassVar[tuple[str, ...]] = ("original",)
    fidelity: ClassVar[str] = "ours; at rank `all` it is `strip` at t = 1 to the bit"
    status: ClassVar[str] = "tested"

    evaluate_at: Annotated[
        tuple[Rank, ...], AsTuple, Field(min_length=1, json_schema_extra=NO_EFFECT)
    ] = (1, 4, 16, ALL)
    """Ranks r; `all` is the public original itself. Source: ours,
    docs/fidelity/undo_delta.md."""

    def points(self) -> tuple[float, ...]:
        """Give the ranks, ascending."""
        return tuple(sorted({float(rank) for rank in self.evaluate_at}))

    def returns_original(self, point: float) -> bool:
        """Say whether every direction is undone."""
        return point >= ALL

    def setup(self, run: Run) -> None:
        """Log each matrix's singular values, largest first: a low-rank delta shows there.

        Vocabulary rows added since have no original: they are counted and left alone.
        """
        for name, tensor in run.models["start"].items():
            public = nn.original_of(run.models["original"], name, tensor, run.where)
            added = nn.added_rows(run.models["original"][name], tensor)
            if added:
                run.log(added_rows=name, count=added)
            if public.ndim == 2:
                values = torch.linalg.svdvals(tensor.float() - public.float())
                run.log(spectrum=name, values=[round(float(v), 6) for v in values[:32]])

    def edit(self, run: Run, point: float, state: object) -> dict[str, Tensor]:
        """Give every tensor with its delta's main directions undone."""
        original = run.models["original"]
        return {
            name: without_top(tensor, nn.original_of(original, name, tensor, run.where), int(point))
            for name, tensor in run.models["start"].items()
        }
