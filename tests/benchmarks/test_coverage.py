"""The simulation in small: its bars hold, and it would see an interval that does not cover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from holdfast.stats import cost, ratios


@pytest.fixture
def module(loaded: Callable[[str], Any]) -> Any:
    return loaded("coverage")


def test_the_planted_truth_is_where_the_curve_meets_the_threshold(module: Any) -> None:
    """With many prompts and a grid around it, the estimate's own step holds the truth."""
    near = np.array([0, *np.geomspace(0.5, 64, 15)])
    many = replace(module.SETTINGS[0], budgets=near, clusters=1500)
    drawn = module.studies(np.random.default_rng(2), many, 2)
    _, low, high = module.points(many, replace(drawn, selection=drawn.evaluator))
    # Half a step off where the truth lies at a budget: 4 of 64 at the most.
    assert np.mean((low < drawn.truth) & (drawn.truth <= high)) > 0.9
    assert (low <= 1.1 * drawn.truth).all()
    assert (drawn.truth <= 1.1 * high).all()


def test_events_have_the_chance_and_the_agreement_planted(module: Any) -> None:
    level = np.full((300, 1, 2, 1, 3), -0.84, np.float32)
    found = module.events(np.random.default_rng(3), level, 40, 0.05, fresh=True)
    assert found.mean() / module.PROMPTS == pytest.approx(0.2, abs=0.01)
    # Two prompts of a cluster share 0.3 of their variance, however it is split up.
    both = stats.multivariate_normal.cdf([-0.84, -0.84], cov=[[1, 0.3], [0.3, 1]])
    assert np.mean(found == 2) == pytest.approx(both, abs=0.005)


def test_costs_and_ratios_meet_their_bars_in_small(
    module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = module.simulate(module.SETTINGS[0], 40, 200, 5)
    assert np.mean(tally.held) >= 0.94
    assert np.mean(tally.widths) < 3
    excluded, right, _, _ = module.ratios(module.SETTINGS[0], tally)
    assert excluded <= 6
    assert right == pytest.approx(100 - excluded)
    assert np.mean(tally.claimed) <= 0.05
    assert module.costs(4, 50, module.SETTINGS[6:7]) in {True, False}
    assert "apart" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["rates", "kept"])
def test_shares_meet_their_bars_in_small(
    module: Any, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [module.Answers(0.95, 0.9), module.Answers(0.95, 0.9, 8, 0.4)]
    assert module.answers(kind, settings, 120)
    module.edges()
    assert "clusters that show 0.9: 24" in capsys.readouterr().out


def test_a_wrong_interval_misses_the_bar(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The point alone as an interval of costs, and half the width as one of shares."""
    right = ratios.kept

    def narrow(*given: Any) -> ratios.Kept:
        found = right(*given)
        assert found.value is not None
        half = [(found.value + end) / 2 for end in (found.low, found.high)]
        return replace(found, low=half[0], high=half[1])

    monkeypatch.setattr(ratios, "kept", narrow)
    assert not module.answers("kept", [module.Answers(0.9, 0.8, 8, 0.4)], 120)
    monkeypatch.undo()
    priced = cost.cost_to_break

    def pointed(*given: Any, **more: Any) -> cost.Cost:
        found = priced(*given, **more)
        return replace(found, ci_low=found.low, ci_high=found.high)

    monkeypatch.setattr(cost, "cost_to_break", pointed)
    assert not module.costs(40, 0, module.SETTINGS[1:2])
    assert capsys.readouterr().out
