"""The benchmark of the audit runs in small, finds what it planted, and fails where it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def module(loaded: Callable[[str], Any]) -> Any:
    return loaded("audit")


def test_it_finds_what_it_planted(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main(["--self-check"]) == 0
    told = capsys.readouterr().out
    assert [part in told for part in ("load", "deduplicate", "audit", "whole")] == [True] * 4
    line = next(line for line in told.splitlines() if line.startswith("evaluation in defence"))
    equal, near = (int(word) for word in line.split() if word.isdigit())
    # 3,000 rows, 1 % equal and 10 % near; a quarter is the evaluator's, two fifths the defender's.
    assert 0 < equal < 12
    assert 10 < near < 120


def test_a_bar_that_is_missed_fails(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "GIB", 0.01)
    assert module.main(["--rows", "200"]) == 1
