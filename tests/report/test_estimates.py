from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from holdfast.report import estimates


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
    assert estimates.monotone(values, weights) == pytest.approx(expected, abs=1e-7)
    stacked = estimates.monotone(np.stack([values, values[::-1]]), np.stack([weights, weights]))
    assert stacked[0] == pytest.approx(expected, abs=1e-7)


def test_a_point_without_weight_takes_no_part_in_the_fit():
    fit = estimates.monotone(np.array([0.1, np.nan, 0.5]), np.array([1.0, 0.0, 1.0]))
    assert fit[[0, 2]] == pytest.approx([0.1, 0.5])


def _break(harm, usable=None, threshold=0.2):
    harm = np.array(harm, float)
    usable = np.ones(len(harm), bool) if usable is None else np.array(usable, bool)
    before, at = estimates.first_break(harm, np.ones(len(harm)), usable, threshold)
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


def test_coherence_needs_answers_and_usefulness():
    degenerate = np.array([0.0, 0.2, 0.21, np.nan])
    utility = np.array([0.9, 0.72, 0.9, 0.9])
    assert estimates.coherent(degenerate, utility).tolist() == [True, True, False, False]
    low = np.array([0.9, 0.71, 0.9, 0.9])
    assert estimates.coherent(degenerate, low).tolist() == [True, False, False, False]
    assert estimates.coherent(degenerate, None).tolist() == [True, True, False, False]


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
    assert estimates.sign_flip([1.0] * 8) == 2 / 256
    assert estimates.sign_flip([2.0, 1.0, -1.0]) == pytest.approx(6 / 8)
    assert estimates.sign_flip([0.0, 0.0]) == 1.0
    assert estimates.sign_flip([]) == 1.0
    assert estimates.sign_flip([1.0] * 30) == pytest.approx(2 / 2**30)


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=9))
def test_sign_flip_equals_counting_every_pattern(differences):
    assert estimates.sign_flip(differences) == pytest.approx(_by_counting(differences))


def test_sign_flip_refuses_what_it_cannot_do_exactly():
    with pytest.raises(ValueError, match="at most 40 pairs"):
        estimates.sign_flip([1.0] * 41)


def test_holm_by_hand():
    assert estimates.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert estimates.holm([0.9, 0.8]) == [1.0, 1.0]
    assert estimates.holm([]) == []


def test_resamples_are_repeatable_and_whole():
    once = estimates.resample(5, 40, (1, 2))
    assert (once.sum(1) == 5).all()
    assert (once == estimates.resample(5, 40, (1, 2))).all()
    assert not (once == estimates.resample(5, 40, (1, 3))).all()
    assert estimates.resample(0, 3, (0,)).shape == (3, 0)
    assert math.isclose(float(once.mean()), 1.0)
