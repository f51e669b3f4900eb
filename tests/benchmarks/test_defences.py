"""Each defence's plain form and ours give the same losses and gradients, and are counted right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def module(loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    module = loaded("defences")
    monkeypatch.setattr(module.torch, "set_num_threads", lambda _threads: None)
    return module


def test_both_forms_agree(module: Any, capsys: pytest.CaptureFixture) -> None:
    assert module.main(["--self-check"]) == 0
    told = capsys.readouterr().out
    assert [name for name in module.METHODS if f"{name}:" not in told] == []


def test_a_difference_is_told(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def wrong(*given: Any) -> Any:
        loss, found = module.FORMS["sdd"](*given)
        return loss * 1.001, found

    monkeypatch.setitem(module.FORMS, "random_vaccine", wrong)
    assert module.main(["--self-check", "--only", "random_vaccine"]) == 1
    assert "random_vaccine: loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "steps"), [("sdd", 1), ("vaccine", 10 / 6), ("booster", 18 / 6), ("ctrap", 18 / 6)]
)
def test_published_counts_stand(module: Any, name: str, steps: float) -> None:
    bench = module.prepare(module.shape_of("self-check"), "cpu")
    (job,) = module.jobs(bench, name, 1)
    assert job.necessary() / job.counted(3, 3) == pytest.approx(steps)


def test_every_line_is_a_row_of_the_table(
    module: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tiny = module.shape_of("self-check")
    monkeypatch.setattr(module, "shape_of", lambda _name: tiny)
    module.main(["--only", "booster", "--batches", "1", "--repeats", "1", "--clock", "processor"])
    told = capsys.readouterr().out.splitlines()
    table = [line for line in told if line.startswith("|")]
    assert len(table) == 3
    assert {line.count("|") for line in table} == {12}
    assert table[2].startswith("| booster | ")
    assert any(line.startswith("booster: ") and "copies" in line for line in told)
