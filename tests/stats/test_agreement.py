"""Agreement of judges, beside numbers worked by hand or published, and other people's code."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from holdfast.stats.agreement import MISSING, Coefficient, Readings, alpha, kappa, pair, spearman

NONE = Coefficient(None, None, None)


def test_kappa_of_a_table_worked_by_hand() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: observed .70, expected .50, kappa .40
    codes = np.array([(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15)
    found = kappa(codes, np.arange(50))
    assert found.value == pytest.approx(0.4)
    assert found.low is not None
    assert found.high is not None
    assert 0.1 < found.low < 0.25
    assert 0.55 < found.high < 0.7


def test_kappa_equals_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(3)
    left = draw.integers(0, 5, 200)
    right = np.where(draw.random(200) < 0.6, left, draw.integers(0, 5, 200))
    found = kappa(np.stack([left, right], 1), np.arange(200), resamples=0)
    assert found == Coefficient(pytest.approx(cohen_kappa_score(left, right)), None, None)


def test_alpha_of_krippendorffs_own_example() -> None:
    # Krippendorff 2011, example C: four observers, twelve units, nominal alpha 0.743
    __ = MISSING
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, __, __, __],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, __, 3],
        [__, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, __],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, __],
    ]
    found = alpha(np.array(observers).T, np.arange(12), resamples=0)
    assert found.value == pytest.approx(0.743, abs=5e-4)


def test_rank_correlation_equals_that_of_scipy() -> None:
    draw = np.random.default_rng(4)
    left = draw.integers(1, 6, 80).astype(float)
    scores = np.stack([left, draw.random(80) + left / 5], 1)
    found = spearman(scores, np.arange(80) // 2)
    assert found.value == pytest.approx(stats.spearmanr(scores[:, 0], scores[:, 1]).statistic)
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_answers_to_one_prompt_are_one_cluster() -> None:
    codes = np.array([(1, 1), (0, 0), (1, 0), (0, 0), (1, 1)] * 40)
    alone = kappa(codes, np.arange(200))
    clustered = kappa(np.repeat(codes[:20], 10, axis=0), np.repeat(np.arange(20), 10))
    assert alone.value == pytest.approx(clustered.value)
    widths = [one.high - one.low for one in (alone, clustered) if one.high and one.low]
    assert widths[1] > 2 * widths[0]


def test_what_cannot_tell_is_none_and_no_number() -> None:
    same = np.ones((8, 2), int)
    assert kappa(same, np.arange(8)) == NONE
    assert alpha(same, np.arange(8)) == NONE
    assert spearman(np.ones((8, 2)), np.arange(8)) == NONE
    assert kappa(np.zeros((0, 2), int), np.zeros(0, int)) == NONE
    assert alpha(np.full((4, 2), MISSING), np.arange(4)) == NONE
    one = kappa(np.array([(1, 1), (0, 0), (1, 0)]), np.zeros(3, int))
    assert one.value is not None
    assert (one.low, one.high) == (None, None)  # a single cluster shows nothing of others


def test_answers_that_either_left_are_counted_and_never_imputed() -> None:
    harm = np.array([(1, 1), (0, 0), (1, MISSING), (MISSING, 0), (MISSING, MISSING), (0, 1)])
    score = np.where(harm == MISSING, np.nan, harm * 4.0 + 1)
    score[0, 0] = np.nan  # an outcome without a score
    said = Readings(("a", "b"), harm, harm, score, np.arange(6))
    found = pair(said, 0, 1)
    assert (found.n, found.clusters, found.unscored, found.neither) == (3, 3, (2, 2), 1)
    assert found.same == pytest.approx(2 / 3)
    assert found.scored == 2
    assert said.unscored == {"a": 2, "b": 2}
    full = kappa(harm[[0, 1, 5]], np.arange(3))
    assert found.harm == full
