"""Rates with intervals over clusters of prompts, and over seeds.

Every function is pure numpy; the docstrings give shapes. `benchmarks/coverage.py` measures how
often these intervals hold the truth.

Sources:
- Franco, Little, Louis, Slud 2019, "Comparative study of confidence intervals for proportions in
  complex sample surveys": binomial intervals on an effective sample size; Jeffreys among the best.
- Korn, Graubard 1998, "Confidence intervals for proportions with small expected number of
  positive counts estimated from survey data": the effective size times (z / t)^2.
- Brown, Cai, DasGupta 2001: Jeffreys with the end point set to 0 or 1 at no event or all events.
- Cameron, Gelbach, Miller 2011, "Robust inference with multiway clustering".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""Confidence level of every interval; the usual choice."""
LEAST_DESIGN_EFFECT = 0.5
"""Clusters that happen to agree exactly would give an endless effective size; half is the floor."""
SEEDS_FOR_INTERVAL = 6
"""Fewer seeds than this are shown as points: an exact 95 % interval takes six to be bounded."""
SEEDS_FOR_RANKING = 8
"""Paired seeds a ranking claim needs: the least p is then 2/256, which six tested pairs adjust to
0.047 (Holm); of seven seeds three pairs are too many."""
TINY = 1e-9
"""Rounding allowed where a share meets its limit exactly; shares differ by far more."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of rows with its interval: `hits` of `n` rows in `groups` clusters.

    `value` is None when nothing was counted; the interval is then all of [0, 1].
    """

    hits: int
    n: int
    groups: int
    value: float | None
    low: float
    high: float


def rate(
    hits: np.ndarray,
    n: np.ndarray,
    *,
    cluster: np.ndarray | None = None,
    seed: np.ndarray | None = None,
    level: float = LEVEL,
) -> Rate:
    """Estimate sum(hits) / sum(n) with a Jeffreys interval on a cluster-robust effective size.

    `hits` and `n` are counts per unit, [U]. `cluster` [U] names each unit's cluster (default:
    every unit is one). `seed` [U] asks for an interval over seeds as well as clusters: the
    variance is then the two-way one. Units with n = 0 are left out.

    The size is cut by (z / t)^2 because it comes from an estimated variance. Where no row differs
    from another there is no such estimate: the size is then the number of clusters as it is, with
    or without seeds. Seeds that all agree count as alike; they do not show what one more would do.
    And a few events show little of how rows agree, so no end is nearer to 0 or 1 than that of a
    record without any: 1 of 240 is not known better than 0 of 240.
    """
    from scipy import special

    hits, n = np.asarray(hits, float), np.asarray(n, float)
    keep = n > 0
    hits, n = hits[keep], n[keep]
    cluster = np.arange(len(keep))[keep] if cluster is None else np.asarray(cluster)[keep]
    total = n.sum()
    groups = len(np.unique(cluster))
    if total == 0:
        return Rate(0, 0, 0, None, 0.0, 1.0)
    count, p = hits.sum(), float(hits.sum() / total)
    units = groups
    if seed is not None:
        seed = np.asarray(seed)[keep]
        units = min(groups, len(np.unique(seed)))
    if units < 2:
        return Rate(int(count), int(total), groups, p, 0.0, 1.0)
    varied = spread(hits - p * n, cluster, seed)
    size = effective_size(p, total, varied / total**2, groups=groups)
    if 0 < p < 1:
        size *= (special.ndtri((1 + level) / 2) / special.stdtrit(units - 1, (1 + level) / 2)) ** 2
    low, high = jeffreys(p, size, level=level)
    low = min(low, jeffreys(1.0, groups, level=level)[0])
    high = max(high, jeffreys(0.0, groups, level=level)[1])
    return Rate(int(count), int(total), groups, p, low, high)


def effective_size(p: float, n: float, variance: float, *, groups: int) -> float:
    """Give how many independent rows would vary as these clusters do: p (1 - p) / variance.

    With no event, or all, the data cannot show how rows agree inside a cluster; the number of
    clusters is then the size, as if each cluster were one row.
    """
    binomial = p * (1 - p) / n
    if binomial <= 0:
        return float(groups)
    return n / max(variance / binomial, LEAST_DESIGN_EFFECT)


def jeffreys(p: float, n: float, *, level: float = LEVEL) -> tuple[float, float]:
    """Give the equal-tailed interval of Beta(n p + 1/2, n (1 - p) + 1/2); `n` need not be whole.

    The lower end is 0 at p = 0 and the upper end 1 at p = 1, and both always hold p.
    """
    from scipy import special

    tail = (1 - level) / 2
    a, b = n * p + 0.5, n * (1 - p) + 0.5
    low = 0.0 if p <= 0 else float(special.betaincinv(a, b, tail))
    high = 1.0 if p >= 1 else float(special.betaincinv(a, b, 1 - tail))
    return min(low, p), max(high, p)


def _variance(residual: np.ndarray, labels: np.ndarray) -> float:
    """Give C / (C - 1) x the sum of squared cluster sums of residuals [U]; 0 for one cluster."""
    codes = _codes(labels)
    clusters = int(codes.max()) + 1
    if clusters < 2:
        return 0.0
    sums = np.bincount(codes, weights=residual, minlength=clusters)
    return float(clusters / (clusters - 1) * (sums**2).sum())


def _codes(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def spread(residual: np.ndarray, cluster: np.ndarray, seed: np.ndarray | None) -> float:
    """Give the variance of the sum of residuals [U] over clusters, and over seeds if given.

    Two ways: clusters + seeds - pairs of both (Cameron, Gelbach, Miller 2011). That sum may fall
    below either part by chance; the larger part is then used.
    """
    over_clusters = _variance(residual, cluster)
    if seed is None:
        return over_clusters
    pairs = _codes(cluster) * (len(seed) + 1) + _codes(seed)
    over_seeds = _variance(residual, seed)
    both = over_clusters + over_seeds - _variance(residual, pairs)
    return max(over_clusters, over_seeds, both)
