"""The benchmark's plain form of SGT and ours give the same losses and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def module(loaded: Callable[[str], Any]) -> Any:
    return loaded("sgt")


def test_both_forms_agree(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(module.torch, "set_num_threads", lambda _threads: None)
    assert module.main(["--self-check"]) == 0
    told = capsys.readouterr().out
    assert [name in told for name in ("absolute", "paper", "released", "stage 1")] == [True] * 4


def test_the_peak_is_that_of_live_tensors(module: Any) -> None:
    def run() -> None:
        first = module.torch.ones(1000, 1000)
        second = first + 1
        del first
        module.torch.ones(500, 1000).add_(second[:500])

    assert module.peak(run, "cpu") == pytest.approx(8e6, rel=0.01)
