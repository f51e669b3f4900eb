"""Strip: interpolate the weights toward the public original. It costs the attacker nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from holdfast import nn
from holdfast.api import Control, Run, Share, WeightAttack
from holdfast.api.fields import NO_EFFECT, AsTuple

if TYPE_CHECKING:
    from torch import Tensor


class Strip(WeightAttack):
    """W <- W + t (W_original - W), for t in (0, 1]."""

    status: ClassVar[str] = "tested"
    control: ClassVar[Control] = Control.WEIGHTS
    needs: ClassVar[tuple[str, ...]] = ("original",)

    evaluate_at: Annotated[
        tuple[Share, ...], AsTuple, Field(min_length=1, json_schema_extra=NO_EFFECT)
    ] = (0.25, 0.5, 0.75, 1.0)
    """How far to go: 1 is the public original itself. Source: ours,
    docs/fidelity/strip.md."""

    def points(self) -> tuple[float, ...]:
        """Give the values of t above 0, ascending."""
        return tuple(sorted({t for t in self.evaluate_at if t > 0}))

    def returns_original(self, point: float) -> bool:
        """Say whether the way is gone to its end."""
        return point == 1

    def edit(self, run: Run, point: float, state: object) -> dict[str, Tensor]:
        """Give every interpolated tensor; the original's own values at t = 1."""
        original = run.models["original"]
        edited = {}
        for name, tensor in run.models["start"].items():
            public = nn.original_of(original, name, tensor, run.where)
            edited[name] = public if point == 1 else tensor + point * (public - tensor)
        return edited
