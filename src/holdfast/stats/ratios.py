"""How much of the undefended model's usefulness a line-up keeps: a ratio with its interval.

Sources:
- Zou, Donner 2008, "Construction of confidence limits about effect measures"; Donner, Zou 2012,
  "Closed-form confidence intervals for functions of the normal mean and standard deviation": the
  method of variance estimates recovery (MOVER) for differences and ratios.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from holdfast.stats.estimates import LEVEL, rate, spread


@dataclass(frozen=True, slots=True)
class Kept:
    """How much of the undefended model's usefulness a line-up has, with its interval.

    `value` may exceed 1. It is None, and the interval [0, inf), where the undefended model has no
    right answer. `groups` counts clusters of prompts that both were asked.
    """

    groups: int
    value: float | None
    low: float
    high: float


def kept(
    own_hits: np.ndarray,
    plain_hits: np.ndarray,
    n: np.ndarray,
    cluster: np.ndarray | None = None,
    seed: np.ndarray | None = None,
    *,
    level: float = LEVEL,
) -> Kept:
    """Estimate sum(own) / sum(plain): right answers beside the undefended model's, same prompts.

    `own_hits`, `plain_hits` of `n` answers, each [U]; `cluster` [U] and `seed` [U] as in `rate`. A
    unit is best one prompt at one seed: of a unit of several rows only the surplus of one model
    over the other counts as disagreement.

    With q the undefended model's rate, b the share that only the line-up has right and c the share
    that only the undefended model has, the line-up's rate is q + b - c, and for the true ratio R

        (1 - R) q + b - c = 0.

    Low and high are the R at which the lower or upper limit of that sum is 0. The limits come from
    those that `rate` gives for q, b and c (MOVER, Zou and Donner 2008, for a sum of terms x_i with
    correlations r_ij, here those over clusters, 0 where a term does not vary):

        lower = sum x_i - sqrt(sum_ij r_ij (x_i - low_i) (x_j - low_j))

    Two models that agree everywhere still get a width, that of b and c at no event; the correlation
    of the two rates themselves, 1 there, would shrink it to a point. A perfect line-up beside a
    perfect model reaches a share with `clusters_to_show` clusters.
    """
    own, plain, n = (np.asarray(part, float) for part in (own_hits, plain_hits, n))
    keep = n > 0
    own, plain, n = own[keep], plain[keep], n[keep]
    names = (np.arange(len(keep)) if cluster is None else np.asarray(cluster))[keep]
    seeds = None if seed is None else np.asarray(seed)[keep]
    parts = (plain, np.maximum(own - plain, 0.0), np.maximum(plain - own, 0.0))
    rates = [rate(part, n, cluster=names, seed=seeds, level=level) for part in parts]
    q, b, c = (found.value or 0.0 for found in rates)
    if q <= 0:
        return Kept(rates[0].groups, None, 0.0, math.inf)
    residuals = [part - mean * n for part, mean in zip(parts, (q, b, c), strict=True)]
    related = _related(residuals, names, seeds)

    def limit(ratio: float, side: float) -> float:
        factors = np.array([1 - ratio, 1.0, -1.0])
        # Each term's own limit on that side: its rate's other end where its factor is negative.
        ends = [r.high if f * side > 0 else r.low for f, r in zip(factors, rates, strict=True)]
        arms = factors * np.abs(np.array(ends) - (q, b, c))
        return float(factors @ (q, b, c)) + side * math.sqrt(max(0.0, float(arms @ related @ arms)))

    value = (q + b - c) / q
    low, high = 0.0, math.inf
    if limit(0.0, -1.0) > 0:
        low = _root(lambda ratio: limit(ratio, -1.0), 0.0, value)
    if rates[0].low > 0:
        far = 2 * value + 1
        while limit(far, 1.0) > 0:
            far *= 2
        high = _root(lambda ratio: -limit(ratio, 1.0), far, value)
    return Kept(rates[0].groups, value, min(low, value), max(high, value))


@dataclass(frozen=True, slots=True)
class Gained:
    """A difference of two shares in [-1, 1] with its interval; None where nothing was counted."""

    value: float | None
    low: float
    high: float


def gained(
    after: np.ndarray,
    before: np.ndarray,
    cluster: np.ndarray,
    seed: np.ndarray | None = None,
    *,
    level: float = LEVEL,
) -> Gained:
    """Estimate mean(after) - mean(before) of the same prompts, 0 or 1 each: [U].

    It is b - c of `kept`, the share that is right only after less the share that was only before,
    with limits by the same method.
    """
    after, before = np.asarray(after, float), np.asarray(before, float)
    if not len(after):
        return Gained(None, -1.0, 1.0)
    parts, n = (
        (np.maximum(after - before, 0.0), np.maximum(before - after, 0.0)),
        np.ones(len(after)),
    )
    won, lost = (rate(part, n, cluster=cluster, seed=seed, level=level) for part in parts)
    b, c = won.value or 0.0, lost.value or 0.0
    related = _related([part - part.mean() for part in parts], cluster, seed)

    def arm(left: float, right: float) -> float:
        arms = np.array([left, -right])
        return math.sqrt(max(0.0, float(arms @ related @ arms)))

    low, high = arm(b - won.low, lost.high - c), arm(won.high - b, c - lost.low)
    return Gained(b - c, max(-1.0, b - c - low), min(1.0, b - c + high))


def apart(first: Gained, second: Gained) -> Gained:
    """Give how much larger the first of two gains is, as if their errors had nothing in common.

    Of the same prompts they mostly err the same way: the interval is then too wide, not too narrow.
    """
    if first.value is None or second.value is None:
        return Gained(None, -2.0, 2.0)
    low = math.hypot(first.value - first.low, second.high - second.value)
    high = math.hypot(first.high - first.value, second.value - second.low)
    value = first.value - second.value
    return Gained(value, value - low, value + high)


def _related(
    residuals: Sequence[np.ndarray], cluster: np.ndarray, seed: np.ndarray | None
) -> np.ndarray:
    """Give the correlations of several sums of residuals, each [U]: [n, n]."""
    found = np.eye(len(residuals))
    for i, j in itertools.combinations(range(len(residuals)), 2):
        found[i, j] = found[j, i] = _correlation(residuals[i], residuals[j], cluster, seed)
    return found


def _root(limit: Callable[[float], float], outside: float, inside: float) -> float:
    """Find where a limit is 0 between a ratio it shuts out (above 0) and one it does not."""
    for _ in range(60):
        middle = (outside + inside) / 2
        if limit(middle) > 0:
            outside = middle
        else:
            inside = middle
    return outside


def _correlation(
    first: np.ndarray, second: np.ndarray, cluster: np.ndarray, seed: np.ndarray | None
) -> float:
    """Give the correlation of two sums of residuals [U]; 0 where either does not vary.

    From variances alone: V(first + second) = V(first) + V(second) + 2 C.
    """
    one, other = spread(first, cluster, seed), spread(second, cluster, seed)
    if min(one, other) <= 0:
        return 0.0
    covariance = (spread(first + second, cluster, seed) - one - other) / 2
    return float(np.clip(covariance / math.sqrt(one * other), -1.0, 1.0))


def clusters_to_show(share: float, *, level: float = LEVEL) -> int:
    """Give the least number of clusters at which a perfect model's `kept` reaches `share`.

    Perfect: it and the undefended model have every answer right. 24 for 0.9. A model that agrees
    with an undefended one of rate q < 1 needs about 1 / q times as many.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share to be shown lies between 0 and 1, not at {share}")

    def shown(groups: int) -> bool:
        ones = np.ones(groups)
        return kept(ones, ones, ones, level=level).low >= share

    enough = 2
    while not shown(enough):
        enough *= 2
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if shown(middle) else (middle, enough)
    return enough
