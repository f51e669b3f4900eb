"""How long a trial holds, and which one the rule takes: by hand."""

from __future__ import annotations

import pytest

from holdfast.stats.trials import Result, by_attack, choose, held
from holdfast.study.trials import Rule


def trial(number: int, *, harm: float = 0.0, utility: float = 1.0, at: float = 8.0) -> Result:
    """Make a trial that is broken half-way, in doublings, between `at` / 2 and `at` examples."""
    curve = [(at / 2, 0.0), (at, 0.4)]
    return Result("sgt", number, [harm], [utility], curves=[{"lr=1": curve}])


def two(number: int, slow: float, fast: float, utility: float = 1.0) -> Result:
    """Make a trial that two attacks break: log2 examples at which each reaches 20 %."""
    curves = {
        name: [(2 ** (value - 0.5), 0.0), (2 ** (value + 0.5), 0.4)]
        for name, value in (("slow", slow), ("fast", fast))
    }
    return Result("sgt", number, [0.0], [utility], curves=[curves])


def test_held_lies_between_the_budgets_by_the_rate() -> None:
    """0 at 4, 40 % at 8: 20 % is half-way from log2 4 to log2 8."""
    assert held([(4, 0.0), (8, 0.4)], 0.2) == 2.5
    assert held([(4, 0.0), (8, 0.2)], 0.2) == 4  # the rate itself is not past it
    assert held([(4, 0.4)], 0.2) == 1.5
    assert held([(4, 0.0), (8, 0.4)], 0.1) == 2.25


def test_harm_and_utility_have_bounds_and_the_longest_held_within_them_wins() -> None:
    fine, longest = trial(1), trial(4, at=16)
    found = choose([fine, trial(2, harm=0.06, at=64), trial(3, utility=0.96, at=64), longest],
                   1.0, Rule())  # fmt: skip

    assert found.winner is not None
    assert found.winner.result is longest
    assert (found.qualify, found.nearest, list(found.equal)) == (2, False, [])
    edge = choose([trial(1, harm=0.05), trial(2, utility=0.97)], 1.0, Rule())
    assert edge.qualify == 2  # the bounds themselves are within


def test_among_equal_ones_the_declared_tie_break_decides_then_the_order_of_the_file() -> None:
    """Held under the worst: 2.96, 2.9 and 3.0; a twentieth of a doubling is equal."""
    near, far, longest = two(1, 5, 2.96), two(2, 9, 2.9), two(3, 4, 3.0, utility=0.99)

    found = choose([near, far, longest], 1.0, Rule())
    assert found.winner is not None
    assert found.winner.result is near
    assert [one.result for one in found.equal] == [longest]
    assert found.winner.worst == "fast"

    strict = choose([near, far, longest], 1.0, Rule(equal=0.0))
    assert strict.winner is not None
    assert strict.winner.result is longest

    use = choose([longest, near], 1.0, Rule(ties="utility"))
    assert use.winner is not None
    assert use.winner.result is near

    same = choose([two(1, 4, 3), two(2, 4, 3)], 1.0, Rule())
    assert same.winner is not None
    assert same.winner.result.number == 1


def test_where_none_qualifies_the_one_that_misses_by_least_is_named() -> None:
    harmful, useless = trial(1, harm=0.35, utility=0.92), trial(2, utility=0.42)
    broken = Result("sgt", 3, failed="diverged")

    found = choose([useless, broken, harmful], 1.0, Rule())
    assert found.winner is not None
    assert found.winner.result is harmful  # 0.30 + 0.05 beside 0.55
    assert found.winner.miss == pytest.approx(0.35)
    assert found.nearest
    nothing = choose([broken], 1.0, Rule())
    assert (nothing.winner, nothing.nearest) == (None, False)


def test_seeds_are_averaged_before_the_rule_reads_them() -> None:
    curves = [{"lr=1": [(4.0, 0.0), (8.0, 0.4)]}, {"lr=1": [(8.0, 0.0), (16.0, 0.4)]}]
    found = choose([Result("sgt", 1, [0.0, 0.08], [1.0, 0.96], curves=curves)], 1.0, Rule())

    assert found.winner is not None
    assert (found.winner.harm, found.winner.utility, found.winner.least) == (0.04, 0.98, 3.0)


def test_each_attack_has_its_mean_over_the_winners() -> None:
    chosen = [choose([two(1, 5, 3)], 1.0, Rule()), choose([two(1, 7, 2)], 1.0, Rule())]

    found = by_attack(chosen, 0.2)
    assert found == pytest.approx({"slow": 6.0, "fast": 2.5})
    assert by_attack([choose([], 1.0, Rule())], 0.2) == {}
