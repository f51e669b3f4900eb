"""How far several judges agree on the same answers: coefficients with intervals.

Judges' words are coded as whole numbers, `MISSING` where a judge gave no verdict. Counts are added
up by cluster of prompts once; each bootstrap resample is then a weighted sum of them. Shapes: N
answers, J judges, G clusters, C codes, R resamples.

Sources:
- Cohen 1960, "A coefficient of agreement for nominal scales".
- Krippendorff 2011, "Computing Krippendorff's alpha-reliability": nominal data, any number of
  judges, values missing.
- Efron, Tibshirani 1993, "An introduction to the bootstrap": percentile intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from holdfast.stats.cost import RESAMPLES
from holdfast.stats.curves import resample
from holdfast.stats.estimates import LEVEL

MISSING = -1
"""The code of an answer that a judge left without a verdict."""
DRAWS = (0, 1960)
"""Seed of the resamples: the same answers give the same interval."""


@dataclass(frozen=True, slots=True)
class Coefficient:
    """A coefficient with its interval; None where the answers cannot tell.

    That is so where every answer got the same word from all: agreement is then no better than
    chance would have it. The interval is None too where there is one cluster of prompts alone.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two judges read the same answers.

    `n` answers of `clusters` clusters of prompts have a verdict of both; `unscored` counts those
    that each left without one (left, right), `neither` those that both did. None of these is
    imputed: coefficients are over the `n`. `same` is the share of them with the same word on harm;
    `harm` is Cohen's kappa on harmful or not, `outcome` on all outcomes; `scores` is Spearman's
    rank correlation of the `scored` answers to which both gave a score.
    """

    left: str
    right: str
    n: int
    clusters: int
    unscored: tuple[int, int]
    neither: int
    same: float | None
    harm: Coefficient
    outcome: Coefficient
    scored: int
    scores: Coefficient


@dataclass(frozen=True, slots=True)
class Readings:
    """What several judges said of the same answers: each [N, J], in the judges' order.

    `outcome` are codes, `MISSING` for no verdict; `harm` 0 or 1 likewise; `score` floats, NaN for
    none; `cluster` [N] numbers each answer's cluster of prompts from 0.
    """

    judges: tuple[str, ...]
    outcome: np.ndarray
    harm: np.ndarray
    score: np.ndarray
    cluster: np.ndarray

    @property
    def unscored(self) -> dict[str, int]:
        """How many answers each judge left without a verdict."""
        missing = (self.harm == MISSING).sum(0)
        return {judge: int(n) for judge, n in zip(self.judges, missing, strict=True)}


def pair(said: Readings, left: int, right: int, *, resamples: int = RESAMPLES) -> Agreement:
    """Compare two judges, by their places among `said.judges`."""
    there = said.harm[:, [left, right]] != MISSING
    both = there.all(1)
    cluster = _numbered(said.cluster[both])
    harm, outcome, score = (
        column[both][:, [left, right]] for column in (said.harm, said.outcome, said.score)
    )
    ranked = ~np.isnan(score).any(1)
    n = int(both.sum())
    return Agreement(
        left=said.judges[left],
        right=said.judges[right],
        n=n,
        clusters=int(cluster.max(initial=-1)) + 1,
        unscored=(int((~there[:, 0]).sum()), int((~there[:, 1]).sum())),
        neither=int((~there).all(1).sum()),
        same=float((harm[:, 0] == harm[:, 1]).mean()) if n else None,
        harm=kappa(harm, cluster, resamples=resamples),
        outcome=kappa(outcome, cluster, resamples=resamples),
        scored=int(ranked.sum()),
        scores=spearman(score[ranked], _numbered(cluster[ranked]), resamples=resamples),
    )


def kappa(codes: np.ndarray, cluster: np.ndarray, *, resamples: int = RESAMPLES) -> Coefficient:
    """Give Cohen's kappa of two judges' codes [N, 2], none missing; `cluster` [N] from 0.

    (observed - expected) / (1 - expected), with the share of equal codes observed, and expected
    what two judges of these habits would reach by chance.
    """
    words, codes = np.unique(codes, return_inverse=True)
    codes = codes.reshape(-1, 2)
    size = len(words)
    cells = codes[:, 0] * size + codes[:, 1]
    counts = _by_cluster(cluster, cells, np.ones(len(cells)), size * size)

    def of(weighted: np.ndarray) -> np.ndarray:
        table = weighted.reshape(-1, size, size)
        n = table.sum((1, 2))
        observed = np.trace(table, axis1=1, axis2=2)
        expected = np.einsum("rc,rc->r", table.sum(1), table.sum(2)) / np.where(n > 0, n, 1)
        return _ratio(observed - expected, n - expected)

    return _bootstrapped(counts, of, resamples)


def alpha(codes: np.ndarray, cluster: np.ndarray, *, resamples: int = RESAMPLES) -> Coefficient:
    """Give Krippendorff's alpha of nominal codes [N, J], `MISSING` where a judge gave none.

    1 - observed / expected disagreement, over all pairs of codes that one answer got; an answer
    with fewer than two codes tells nothing. `cluster` [N] from 0.
    """
    words = np.unique(codes[codes != MISSING])
    size = len(words)
    if not size:
        return Coefficient(None, None, None)
    given = (codes[:, :, None] == words).sum(1)
    paired = given.sum(1) > 1
    given, cluster = given[paired].astype(float), _numbered(cluster[paired])
    # Pairs of unlike and of equal codes in one answer, each weighed 1 / (its codes - 1).
    pairs = given[:, :, None] * given[:, None, :]
    pairs[:, np.arange(size), np.arange(size)] -= given
    pairs /= np.maximum(given.sum(1) - 1, 1)[:, None, None]
    groups = int(cluster.max(initial=-1)) + 1
    counts = np.zeros((groups, size * size))
    np.add.at(counts, cluster, pairs.reshape(-1, size * size))

    def of(weighted: np.ndarray) -> np.ndarray:
        table = weighted.reshape(-1, size, size)
        totals = table.sum(1)
        n = totals.sum(1)
        observed = n - np.trace(table, axis1=1, axis2=2)
        expected = (n**2 - (totals**2).sum(1)) / np.where(n > 1, n - 1, 1)
        return _ratio(expected - observed, expected)

    return _bootstrapped(counts, of, resamples)


def spearman(scores: np.ndarray, cluster: np.ndarray, *, resamples: int = RESAMPLES) -> Coefficient:
    """Give Spearman's rank correlation of two judges' scores [N, 2]; `cluster` [N] from 0.

    Ranks are those among all answers; resamples draw clusters and leave the ranks as they are.
    """
    from scipy import stats

    if not len(scores):
        return Coefficient(None, None, None)
    ranks = stats.rankdata(scores, axis=0)
    x, y = (ranks - ranks.mean(0)).T
    sums = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1)
    counts = np.zeros((int(cluster.max()) + 1, sums.shape[1]))
    np.add.at(counts, cluster, sums)

    def of(weighted: np.ndarray) -> np.ndarray:
        n, x, y, xx, yy, xy = weighted.T
        return _ratio(n * xy - x * y, np.sqrt(np.maximum((n * xx - x**2) * (n * yy - y**2), 0)))

    return _bootstrapped(counts, of, resamples)


def drawn(counts: np.ndarray, resamples: int) -> np.ndarray:
    """Give counts [G, ...] summed over each bootstrap resample of the clusters: [R, ...]."""
    weights = resample(len(counts), resamples, DRAWS)
    return np.tensordot(weights, counts, axes=1)


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Give the percentile interval of resampled values [R]; None where not one is known."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _bootstrapped(
    counts: np.ndarray, of: Callable[[np.ndarray], np.ndarray], resamples: int
) -> Coefficient:
    """Give a coefficient of summed counts [G, M] and its interval over clusters."""
    if not counts.size:
        return Coefficient(None, None, None)
    value = float(of(counts.sum(0, keepdims=True))[0])
    if np.isnan(value):
        return Coefficient(None, None, None)
    ends = interval(of(drawn(counts, resamples))) if len(counts) > 1 and resamples else None
    if ends is None:
        return Coefficient(value, None, None)
    return Coefficient(value, min(ends[0], value), max(ends[1], value))


def _by_cluster(
    cluster: np.ndarray, cells: np.ndarray, weights: np.ndarray, size: int
) -> np.ndarray:
    groups = int(cluster.max(initial=-1)) + 1
    flat = np.bincount(cluster * size + cells, weights, minlength=groups * size)
    return flat.reshape(groups, size)


def _numbered(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide; NaN where there is nothing to divide by."""
    found = np.full(above.shape, np.nan)
    np.divide(above, below, out=found, where=below > 1e-12)
    return found
