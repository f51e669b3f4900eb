"""Exact tests of paired differences: random signs, their interval, many tests together.

Sources:
- Hartigan 1969, "Using subsample values as typical values": the means of all subsets of symmetric
  observations cut the line into pieces that hold the centre equally often.
- Holm 1979, "A simple sequentially rejective multiple test procedure".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from holdfast.stats.estimates import LEVEL, TINY

MOST_PAIRS = 40
"""Pairs the exact sign-flip test takes: two halves of 2^20 sums."""
LISTED_PAIRS = 20
"""Pairs up to which all subset means are listed: 2^20 numbers, 8 MB."""


def sign_flip(differences: Sequence[float]) -> float:
    """Give the exact two-sided p of paired differences [n] under random signs, n <= MOST_PAIRS.

    The share of the 2^n sign patterns whose absolute sum is at least the observed one. Sums of
    the two halves are sorted and matched, so 40 pairs cost 2^20 numbers.
    """
    values = np.abs(np.asarray(differences, float))
    _few_enough(len(values))
    values = values[values > 0]
    observed = abs(float(np.sum(differences)))
    if len(values) == 0:
        return 1.0
    half = len(values) // 2
    left, right = (np.sort(_signed_sums(part)) for part in (values[:half], values[half:]))
    edge = observed - 1e-9 * max(1.0, float(values.sum()))
    above = len(right) - np.searchsorted(right, edge - left, side="left")
    below = np.searchsorted(right, -edge - left, side="right")
    extreme = int(above.sum() + below.sum()) if edge > 0 else 2 ** len(values)
    return min(1.0, extreme / 2 ** len(values))


def _signed_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def _few_enough(pairs: int) -> None:
    if pairs > MOST_PAIRS:
        raise ValueError(f"an exact sign-flip test takes at most {MOST_PAIRS} pairs, not {pairs}")


def sign_flip_interval(
    differences: Sequence[float], *, level: float = LEVEL
) -> tuple[float, float]:
    """Give the interval of centres that `sign_flip` does not reject, for differences [n].

    A centre delta below the mean is rejected where 2 (1 + m) / 2^n <= 1 - level, with m the number
    of non-empty subsets whose mean is at most delta (flipping a subset's signs makes the sum of
    the differences from delta as large as observed exactly then). So the ends are the k-th
    smallest and the k-th largest of all subset means, k = floor((1 - level) / 2 * 2^n): Hartigan
    1969. They are infinite where k = 0: six pairs are the least for 95 %.

    Assumes that each difference is symmetric about the same centre, independently of the others;
    neither a normal nor an equal spread. It then holds the centre at least as often as `level`
    says, whatever the ties. Up to LISTED_PAIRS pairs the ends are exact; beyond (to MOST_PAIRS) the
    test is inverted by halving, to about 1e-9 and outwards, which takes seconds.
    """
    values = np.asarray(differences, float)
    size = len(values)
    _few_enough(size)
    # A whole number of patterns must not be lost to rounding of 1 - level.
    k = math.floor((1 - level) / 2 * 2.0**size + TINY)
    if k < 1:
        return -math.inf, math.inf
    if size > LISTED_PAIRS:
        return _accepted_from(values, level), -_accepted_from(-values, level)
    means = _subset_means(values)
    ends = np.partition(means, [k - 1, len(means) - k])
    return float(ends[k - 1]), float(ends[len(means) - k])


def _subset_means(values: np.ndarray) -> np.ndarray:
    """Give the mean of each non-empty subset of values [n]: [2^n - 1]."""
    sums, counts = np.zeros(1), np.zeros(1, np.int8)
    for value in values:
        sums = np.concatenate([sums, sums + value])
        counts = np.concatenate([counts, counts + np.int8(1)])
    return sums[1:] / counts[1:]


def _accepted_from(values: np.ndarray, level: float) -> float:
    """Find the lower end by halving between a rejected and an accepted centre."""
    middle = float(values.mean())
    rejected, accepted = float(values.min()) - 2 * TINY, middle
    smallest = TINY * max(1.0, float(np.abs(values).max()))
    while accepted - rejected > smallest:
        centre = (rejected + accepted) / 2
        if sign_flip(list(values - centre)) > 1 - level:
            accepted = centre
        else:
            rejected = centre
    return rejected


def holm(p_values: Sequence[float]) -> list[float]:
    """Give Holm's adjusted p-values, in the order of `p_values` [m]."""
    order = np.argsort(np.asarray(p_values, float), kind="stable")
    adjusted, highest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * float(p_values[index])))
        adjusted[int(index)] = highest
    return adjusted
