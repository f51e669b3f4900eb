"""What the mixture law predicts of a host's tuning, in hand-worked numbers."""

from __future__ import annotations

import pytest

from holdfast.report.provider import risks_table
from holdfast.stats.provider import Provider, Risk, leaked


@pytest.mark.parametrize(
    ("removed", "draws", "share"),
    [(0.9, 1, 0.1), (0.9, 5, 0.40951), (0.5, 2, 0.75), (1.0, 5, 0.0), (0.0, 5, 1.0)],
)
def test_any_of_several_draws_leaks_what_the_law_says(
    removed: float, draws: int, share: float
) -> None:
    assert leaked(removed, draws) == pytest.approx(share)


def test_the_table_of_risks_sets_the_law_beside_the_weight_that_was_taken() -> None:
    planted = Risk("a", "p10", "adaptive_kl", 0, (0.9, 0.7), (0.1,), 0.9, 0.05)
    clean = Risk("a", "clean", "adaptive_kl", 0, (), (0.1,), None, 0.05)
    table = risks_table(Provider({"draws": 5}, [], [planted, clean]))
    place = table.heads.index("any of 5, mixture law")
    assert [line[place - 1 : place + 1] for line in table.rows] == [["5.0", "41.0"], ["5.0", "-"]]
