"""How far a set of states has moved: its geometry (CKA) and its place (drift)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from holdfast.nn.opening import linear_cka

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["drift", "linear_cka"]


def drift(before: ArrayLike, after: ArrayLike) -> float:
    """Give |after - before|^2 over |before - its mean|^2, sums over rows, [N, H] -> [0, inf).

    What CKA cannot see: states that all move one way keep their geometry. 1 means that states have
    moved as far as they lie apart; 0 where neither moves nor varies.
    """
    x, y = (np.asarray(states, dtype=np.float64) for states in (before, after))
    moved, size = float(np.square(y - x).sum()), float(np.square(x - x.mean(0)).sum())
    if size == 0:
        return 0.0 if moved == 0 else float("inf")
    return moved / size
