"""The benchmark of memory runs, and its estimate has every part that a run has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def test_it_runs_in_every_form(loaded: Callable[[str], Any], capsys: pytest.CaptureFixture) -> None:
    module = loaded("memory")
    assert module.main(["--self-check"]) == 0
    said = capsys.readouterr().out
    assert [name in said for name in module.FORMS] == [True] * len(module.FORMS)
    for part in ("weights", "gradients", "moments", "activations", "teacher"):
        assert part in said
