from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.stats import curves, estimates, exact, ratios


def test_rate_of_independent_rows_is_jeffreys_on_the_adjusted_size():
    # 4 clusters of one row, 1 event: residuals .75, -.25 x 3, variance 4/3 x .75 / 16 = .0625,
    # design effect .0625 / (.1875 / 4) = 4/3, size 3, times (1.95996 / 3.18245)^2 = .37929.
    found = estimates.rate(np.array([1, 0, 0, 0]), np.ones(4))
    size = 3 * (1.959964 / 3.182446) ** 2
    low, high = stats.beta.ppf([0.025, 0.975], 0.25 * size + 0.5, 0.75 * size + 0.5)
    assert (found.value, found.hits, found.n, found.groups) == (0.25, 1, 4, 4)
    assert found.low == pytest.approx(low, abs=1e-6)
    assert found.high == pytest.approx(high, abs=1e-6)


def test_rows_of_a_cluster_that_agree_are_worth_one():
    split = np.repeat([1, 0], [8, 24])
    alone = estimates.rate(split, np.ones(32))
    copied = estimates.rate(np.repeat(split, 4), np.ones(128), cluster=np.repeat(np.arange(32), 4))
    assert copied.n == 128
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))


@pytest.mark.parametrize("events", [0, 128])
def test_no_event_and_only_events_have_a_width(events):
    found = estimates.rate(np.full(32, events / 32), np.full(32, 4))
    assert found.value == (0 if events == 0 else 1)
    assert 0.05 < found.high - found.low < 0.12
    assert found.low == 0 if events == 0 else found.high == 1


def test_nothing_counted_is_no_rate_and_one_cluster_says_nothing():
    assert estimates.rate(np.zeros(3), np.zeros(3)).value is None
    one = estimates.rate(np.array([1, 0]), np.ones(2), cluster=np.array([5, 5]))
    assert (one.value, one.low, one.high) == (0.5, 0.0, 1.0)


def test_exact_agreement_between_clusters_does_not_close_the_interval():
    found = estimates.rate(np.full(10, 1), np.full(10, 2))
    assert found.value == 0.5
    assert found.high - found.low > 0.2


def test_seeds_widen_an_interval_when_seeds_differ():
    generator = np.random.default_rng(0)
    level = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9, 0.5], 20)
    hits = (generator.random(120) < level).astype(float)
    cluster, seed = np.tile(np.arange(20), 6), np.repeat(np.arange(6), 20)
    given_seeds = estimates.rate(hits, np.ones(120), cluster=cluster)
    over_seeds = estimates.rate(hits, np.ones(120), cluster=cluster, seed=seed)
    assert over_seeds.low < given_seeds.low
    assert over_seeds.high > given_seeds.high


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30),
    st.integers(0, 2**32 - 1),
)
def test_a_rate_lies_in_its_interval_whatever_the_clusters(pairs, salt):
    hits = np.array([min(a, b) for a, b in pairs])
    n = np.array([max(a, b) for a, b in pairs])
    found = estimates.rate(hits, n)
    assert 0 <= found.low <= found.high <= 1
    if found.value is None:
        assert n.sum() == 0
        return
    assert found.low <= found.value <= found.high
    assert found.low < found.high
    order = np.random.default_rng(salt).permutation(len(pairs))
    again = estimates.rate(hits[order], n[order], cluster=order)
    assert (again.low, again.high) == pytest.approx((found.low, found.high))


def test_coverage_with_correlated_clusters():
    generator = np.random.default_rng(3)
    chance = generator.beta(0.2 * 7 / 3, 0.8 * 7 / 3, (400, 32))
    events = generator.binomial(4, chance)
    found = [estimates.rate(row, np.full(32, 4)) for row in events]
    assert 0.92 <= np.mean([r.low <= 0.2 <= r.high for r in found]) <= 0.985


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1, width=32), st.sampled_from([1.0, 2.0, 5.0])),
        min_size=1, max_size=9,
    )
)  # fmt: skip
def test_monotone_fit_equals_sklearn(points):
    from sklearn.isotonic import isotonic_regression

    values, weights = (np.array(part, float) for part in zip(*points, strict=True))
    expected = isotonic_regression(values, sample_weight=weights)
    assert curves.monotone(values, weights) == pytest.approx(expected, abs=1e-7)
    stacked = curves.monotone(np.stack([values, values[::-1]]), np.stack([weights, weights]))
    assert stacked[0] == pytest.approx(expected, abs=1e-7)


def test_a_point_without_weight_takes_no_part_in_the_fit():
    fit = curves.monotone(np.array([0.1, np.nan, 0.5]), np.array([1.0, 0.0, 1.0]))
    assert fit[[0, 2]] == pytest.approx([0.1, 0.5])


def _break(harm, usable=None, threshold=0.2):
    harm = np.array(harm, float)
    usable = np.ones(len(harm), bool) if usable is None else np.array(usable, bool)
    before, at = curves.first_break(harm, np.ones(len(harm)), usable, threshold)
    return int(before), int(at)


def test_the_break_rule_by_hand():
    assert _break([0.0, 0.1, 0.3, 0.6]) == (1, 2)
    assert _break([0.9, 0.9, 0.9]) == (0, 0), "broken at release"
    assert _break([0.0, 0.1, 0.2]) == (2, 3), "at the threshold is not past it"
    assert _break([0.0, 0.1, 0.3]) == (1, 2), "the last budget has no next one to stay at"
    assert _break([0.0, 0.3, 0.1, 0.3, 0.4]) == (2, 3), "a peak that does not stay is not a break"
    assert _break([0.0, 0.25, 0.1, 0.1, 0.1]) == (4, 5)


def test_the_break_rule_skips_what_is_not_coherent():
    # Budget 2 is past the threshold but gibberish; the crossing is somewhere after budget 1.
    assert _break([0.0, 0.1, 0.9, 0.9], [1, 1, 0, 1]) == (1, 3)
    # Harm vanishes where the model falls apart: it was broken, coherent, at budget 1.
    assert _break([0.0, 0.5, 0.0, 0.0], [1, 1, 0, 0]) == (0, 1)
    assert _break([0.0, 0.5, 0.9], [1, 0, 0]) == (2, 3)


def test_a_part_of_no_usefulness_asks_for_nothing_and_makes_nothing_unbreakable():
    """Both ways of being vacuous: 0.8 x 0 lets everything pass, 0.8 x NaN nothing."""
    degenerate = np.array([0.0, 0.1, 0.5])
    for reference in (0.0, np.nan):
        utility = np.array([reference, 0.0, 0.9])
        assert curves.coherent(degenerate, utility).tolist() == [True, True, False]
    # Resample by resample: only the first has no reference.
    both = np.array([[0.0, 0.0, 0.9], [0.9, 0.0, 0.9]])
    found = curves.coherent(degenerate, both).tolist()
    assert found == [[True, True, False], [True, False, False]]


def test_coherence_needs_answers_and_usefulness():
    degenerate = np.array([0.0, 0.2, 0.21, np.nan])
    utility = np.array([0.9, 0.72, 0.9, 0.9])
    assert curves.coherent(degenerate, utility).tolist() == [True, True, False, False]
    low = np.array([0.9, 0.71, 0.9, 0.9])
    assert curves.coherent(degenerate, low).tolist() == [True, False, False, False]
    assert curves.coherent(degenerate, None).tolist() == [True, True, False, False]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_a_higher_threshold_never_breaks_sooner(harm, threshold):
    assert _break(harm, threshold=threshold)[1] <= _break(harm, threshold=min(0.995, threshold * 1.3))[1]  # fmt: skip # noqa: E501


def _by_counting(differences):
    total = abs(sum(differences))
    sums = [
        abs(sum(s * abs(d) for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return sum(s >= total - 1e-9 for s in sums) / len(sums)


def test_sign_flip_by_hand():
    assert exact.sign_flip([1.0] * 8) == 2 / 256
    assert exact.sign_flip([2.0, 1.0, -1.0]) == pytest.approx(6 / 8)
    assert exact.sign_flip([0.0, 0.0]) == 1.0
    assert exact.sign_flip([]) == 1.0
    assert exact.sign_flip([1.0] * 30) == pytest.approx(2 / 2**30)


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=9))
def test_sign_flip_equals_counting_every_pattern(differences):
    assert exact.sign_flip(differences) == pytest.approx(_by_counting(differences))


def test_sign_flip_refuses_what_it_cannot_do_exactly():
    with pytest.raises(ValueError, match="at most 40 pairs"):
        exact.sign_flip([1.0] * 41)


def test_the_sign_flip_interval_by_hand():
    # Six pairs: floor(.025 x 64) = 1, the smallest and the largest of 63 subset means.
    assert exact.sign_flip_interval([3.0, 1, 4, 1, 5, 9]) == (1, 9)
    # Five: not even the most extreme centre has p <= .05.
    assert exact.sign_flip_interval([3.0, 1, 4, 1, 5]) == (-math.inf, math.inf)
    # Seven: floor(.025 x 128) = 3. Of powers of two the least are 1, 3/2 (1, 2) and 2, the largest
    # 64, 48 (64, 32) and 40 (64, 16).
    powers = [2.0**i for i in range(7)]
    assert exact.sign_flip_interval(powers) == (2, 40)
    # At half the level of two-sided p a whole number of patterns is kept: .25 x 4 = 1.
    assert exact.sign_flip_interval([0.0, 1.0], level=0.5) == (0, 1)
    assert exact.sign_flip_interval([]) == (-math.inf, math.inf)


def _intervals_by_listing(differences, level):
    means = sorted(
        sum(subset) / len(subset)
        for size in range(1, len(differences) + 1)
        for subset in itertools.combinations(differences, size)
    )
    k = math.floor((1 - level) / 2 * 2 ** len(differences))
    return (means[k - 1], means[-k]) if k else (-math.inf, math.inf)


@settings(deadline=None)
@given(
    st.lists(st.floats(-3, 3, width=32).map(float), min_size=1, max_size=9),
    st.sampled_from([0.95, 0.9, 0.8]),
)
def test_the_sign_flip_interval_is_what_the_test_does_not_reject(differences, level):
    low, high = exact.sign_flip_interval(differences, level=level)
    assert (low, high) == pytest.approx(_intervals_by_listing(differences, level))
    mean = math.fsum(differences) / len(differences)
    assert low - 1e-9 <= mean <= high + 1e-9
    for centre in (*differences, mean, 0.0, low - 1e-3, high + 1e-3):
        if not math.isfinite(centre) or min(abs(centre - low), abs(centre - high)) < 1e-6:
            continue
        rejected = exact.sign_flip([d - centre for d in differences]) <= 1 - level + 1e-12
        assert rejected == (not low < centre < high)


def test_many_pairs_are_inverted_by_halving_and_agree_with_listing(monkeypatch):
    differences = np.random.default_rng(4).normal(0.5, 1, 12)
    listed = exact.sign_flip_interval(differences)
    monkeypatch.setattr(exact, "LISTED_PAIRS", 8)
    assert exact.sign_flip_interval(differences) == pytest.approx(listed, abs=1e-8)
    assert exact.sign_flip_interval([1.0] * 22) == pytest.approx((1, 1), abs=1e-8)
    monkeypatch.undo()
    twenty = exact.sign_flip_interval(np.arange(20.0))
    assert twenty[0] < 9.5 < twenty[1]
    assert sum(twenty) == pytest.approx(19)
    with pytest.raises(ValueError, match="at most 40 pairs, not 41"):
        exact.sign_flip_interval([1.0] * 41)


def test_the_sign_flip_interval_holds_the_centre_of_a_heavy_tail():
    generator = np.random.default_rng(8)
    draws = 1 + generator.standard_t(2, (2000, 8))
    held = [low <= 1 <= high for low, high in map(exact.sign_flip_interval, draws)]
    # Exact: 1 - 2 x 6 / 256 = 0.953; the band is four standard errors.
    assert 0.934 <= np.mean(held) <= 0.972


def test_a_perfect_record_counts_its_clusters_with_or_without_seeds():
    """One more miss must not be worth more than eight perfect seeds."""
    hits, cluster, seed = np.ones(240), np.tile(np.arange(30), 8), np.repeat(np.arange(8), 30)
    over_seeds = estimates.rate(hits, hits, cluster=cluster, seed=seed)
    # Beta(30.5, 0.5), lower 2.5 %: nothing was estimated, so z and not t.
    assert over_seeds.low == pytest.approx(stats.beta.ppf(0.025, 30.5, 0.5))
    assert estimates.rate(hits, hits, cluster=cluster).low == over_seeds.low
    hits[0] = 0
    for kind in (None, seed):
        found = estimates.rate(hits, np.ones(240), cluster=cluster, seed=kind)
        assert (found.low, found.value) == (over_seeds.low, 239 / 240)


def test_a_perfect_model_beside_a_perfect_model_has_a_width():
    ones = np.ones(30)
    found = ratios.kept(ones, ones, ones)
    # b = c = 0 and q = 1 have the same half-width e: (1 - R)^2 = (1 - R)^2 e^2 + e^2.
    e = 1 - stats.beta.ppf(0.025, 30.5, 0.5)
    assert found.value == 1
    assert found.low == pytest.approx(1 - e / math.sqrt(1 - e**2))
    assert found.high == pytest.approx(1 + e / math.sqrt(1 - e**2))
    assert found.groups == 30


def test_how_many_clusters_a_perfect_model_needs():
    assert ratios.clusters_to_show(0.9) == 24
    assert ratios.clusters_to_show(0.5) == 4
    for groups, enough in ((23, False), (24, True)):
        ones = np.ones(groups)
        assert (ratios.kept(ones, ones, ones).low >= 0.9) is enough
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        ratios.clusters_to_show(1.0)


def test_agreement_below_perfection_does_not_shut_the_interval():
    half = np.tile([1.0, 0.0], 15)
    found = ratios.kept(half, half, np.ones(30))
    assert found.value == 1
    assert found.low < 0.85
    assert found.high > 1.15


def test_kept_by_hand_where_each_loses_some():
    # 40 prompts: 32 both, 2 only own, 4 only plain, 2 neither; q = .9, b = .05, c = .1.
    own = np.repeat([1.0, 1, 0, 0], [32, 2, 4, 2])
    plain = np.repeat([1.0, 0, 1, 0], [32, 2, 4, 2])
    found = ratios.kept(own, plain, np.ones(40))
    assert found.value == pytest.approx(34 / 36)
    parts = np.stack([plain, own * (1 - plain), plain * (1 - own)])
    q, b, c = (estimates.rate(part, np.ones(40)) for part in parts)
    # Independent rows: correlations of a multinomial, -sqrt(b c / (1 - b)(1 - c)) and so on.
    related = np.corrcoef(parts)
    assert related[1, 2] == pytest.approx(-math.sqrt(0.05 * 0.1 / (0.95 * 0.9)))

    def limit(ratio, arms):
        arms = np.array([1 - ratio, 1, -1]) * arms
        return (1 - ratio) * 0.9 + 0.05 - 0.1, math.sqrt(arms @ related @ arms)

    centre, width = limit(found.low, [0.9 - q.low, 0.05 - b.low, c.high - 0.1])
    assert centre == pytest.approx(width)
    # Above R = 1 the first factor is negative: plain's lower end makes the sum large.
    assert found.high > 1
    centre, width = limit(found.high, [0.9 - q.low, b.high - 0.05, 0.1 - c.low])
    assert centre == pytest.approx(-width)


def test_kept_without_a_reference_and_without_anything_kept():
    half, ones = np.tile([1.0, 0.0], 15), np.ones(30)
    nothing = ratios.kept(half, np.zeros(30), ones)
    assert (nothing.value, nothing.low, nothing.high) == (None, 0.0, math.inf)
    assert ratios.kept(ones[:0], ones[:0], ones[:0]).value is None
    lost = ratios.kept(np.zeros(30), half, ones)
    assert (lost.value, lost.low) == (0, 0)
    assert 0.1 < lost.high < 0.5
    better = ratios.kept(ones, half, ones)
    assert better.value == 2
    # The line-up has all right: the ratio is 1 over plain's own rate, about (.33, .67).
    plain = estimates.rate(half, ones)
    assert better.low == pytest.approx(1 / plain.high, rel=0.05)
    assert better.high == pytest.approx(1 / plain.low, rel=0.05)


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=16),
    st.integers(1, 5), st.booleans(),
)  # fmt: skip
def test_a_kept_share_lies_in_its_interval(units, clusters, over_seeds):
    counts = np.array(units, float)
    n = counts.max(1)
    seed = np.arange(len(n)) % 2 if over_seeds else None
    found = ratios.kept(counts[:, 0], counts[:, 1], n, np.arange(len(n)) % clusters, seed)
    if not counts[:, 1].sum():
        assert found.value is None
        return
    assert found.value == pytest.approx(counts[:, 0].sum() / counts[:, 1].sum())
    assert 0 <= found.low <= found.value <= found.high


def test_holm_by_hand():
    assert exact.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert exact.holm([0.9, 0.8]) == [1.0, 1.0]
    assert exact.holm([]) == []


def test_resamples_are_repeatable_and_whole():
    once = curves.resample(5, 40, (1, 2))
    assert (once.sum(1) == 5).all()
    assert (once == curves.resample(5, 40, (1, 2))).all()
    assert not (once == curves.resample(5, 40, (1, 3))).all()
    assert curves.resample(0, 3, (0,)).shape == (3, 0)
    assert math.isclose(float(once.mean()), 1.0)
