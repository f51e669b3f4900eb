"""The plane in which some sets of states differ most: PCA over all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from holdfast.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Plane:
    """Coordinates [N, 2] of each set, and the two axes' shares of all variance, in [0, 1]."""

    at: dict[str, NDArray[np.float64]]
    shares: tuple[float, float]


def plane(sets: Mapping[str, ArrayLike]) -> Plane:
    """Project sets of states, each [N, H], onto the first two principal axes of their union.

    Centred, not scaled; exact SVD. The larger end of each axis, by the union's largest coordinate,
    is positive, so that the same states are drawn the same way round.

    Raises:
        DataError: fewer than two rows or two dimensions.
    """
    from sklearn.decomposition import PCA

    parts = {name: np.asarray(states, dtype=np.float64) for name, states in sets.items()}
    union = np.concatenate(list(parts.values()))
    if min(union.shape) < 2:
        raise DataError("PCA", f"states of shape {union.shape}", "give two rows of two dimensions")
    found = PCA(n_components=2, svd_solver="full")
    with np.errstate(invalid="ignore", divide="ignore"):  # states that do not vary at all
        placed = found.fit_transform(union)
        shares = np.nan_to_num(found.explained_variance_ratio_)
    ends = placed[np.abs(placed).argmax(axis=0), [0, 1]]
    placed = placed * np.where(ends < 0, -1.0, 1.0)
    bounds = np.cumsum([len(states) for states in parts.values()])[:-1]
    pieces = np.split(placed, bounds)
    return Plane(dict(zip(parts, pieces, strict=True)), (float(shares[0]), float(shares[1])))
