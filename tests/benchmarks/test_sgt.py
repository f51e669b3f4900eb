"""The benchmark's plain form of SGT and ours give the same losses and gradients."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "sgt.py"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_sgt", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_both_forms_agree(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(module.torch, "set_num_threads", lambda _threads: None)
    assert module.main(["--self-check"]) == 0
    told = capsys.readouterr().out
    assert [name in told for name in ("clean", "paper", "released", "stage 1")] == [True] * 4


def test_the_peak_is_that_of_live_tensors(module: Any) -> None:
    def run() -> None:
        first = module.torch.ones(1000, 1000)
        second = first + 1
        del first
        module.torch.ones(500, 1000).add_(second[:500])

    assert module.peak(run, "cpu") == pytest.approx(8e6, rel=0.01)
