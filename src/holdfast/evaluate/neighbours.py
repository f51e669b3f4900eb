"""k-NN overlap: whether each prompt keeps its neighbours. N prompts, H width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from holdfast.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def knn_overlap(first: ArrayLike, second: ArrayLike, k: int) -> float:
    """Give the mean share of each row's k nearest rows that it keeps, [N, H], [N, H'] -> [0, 1].

    Euclidean, the row itself left out; of two at one distance the one that comes first is nearer.
    By chance alone it is k / (N - 1). Source: SGT's section 5 names the measure; k is ours.

    Raises:
        DataError: other numbers of rows, or no k other rows.
    """
    x, y = (np.asarray(states, dtype=np.float64) for states in (first, second))
    if len(x) != len(y):
        raise DataError("k-NN overlap", f"{len(x)} and {len(y)} rows", "give the same prompts")
    if not 1 <= k < len(x):
        raise DataError(
            "k-NN overlap",
            f"{k} neighbours of {len(x)} prompts",
            f"ask for between 1 and {len(x) - 1}",
        )
    kept = [len(set(a) & set(b)) for a, b in zip(_nearest(x, k), _nearest(y, k), strict=True)]
    return float(np.mean(kept)) / k


def _nearest(states: NDArray[np.float64], k: int) -> list[list[int]]:
    """Give the places of each row's k nearest others, [N, k]."""
    from sklearn.metrics import pairwise_distances

    far = pairwise_distances(states)
    np.fill_diagonal(far, np.inf)
    return np.argsort(far, axis=1, kind="stable")[:, :k].tolist()
