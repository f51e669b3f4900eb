"""The benchmark of the probe runs, and its figures are hand-worked numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def probe(loaded: Callable[[str], Any]) -> Any:
    return loaded("probe")


def test_the_figures_of_four_and_four(probe: Any) -> None:
    said = probe.told([0.9, 0.8, 0.7, 0.3], [0.6, 0.2, 0.1, 0.1], 0.65)
    # 15 of 16 pairs in order; 0.3 finds all, and one clean prompt lies above it
    counts, area, false, _, recall, wrong = said.split(" | ")
    assert (counts, area, false) == ("4 and 4", "0.938", "0.250")
    assert (recall, wrong) == ("0.750", "0.000")


def test_it_asks_five_questions(probe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(["--rows", "24"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1][:3] for line in lines[2:]] == ["(a)", "(b)", "(c)", "(d)", "(e)"]
