"""A study asks benchmarks of lm-eval: planned, asked, counted and shown as any set is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.benchmarking import tasks

from holdfast.cli import run
from holdfast.engine.store import Store
from holdfast.report.saved import Saved
from holdfast.stats import findings
from holdfast.stats.rows import Outcomes
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan

Study = Callable[..., dict[str, Any]]


@pytest.fixture
def study(
    toy: ModuleType, toy_model: Path, installed: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Study:  # fmt: skip
    """Give a function that makes the toy study with two benchmarks besides."""
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    folder = str(tasks(tmp_path / "tasks", 4))

    def make(*more: dict[str, Any], **changes: Any) -> dict[str, Any]:
        data = toy.study(toy_model, **changes)
        books = {"task": "bookish", "folder": folder, "metric": "acc_norm"}
        picks = {"task": "picks", "folder": folder, "set": "chosen"}
        data["sources"] = ["toy_rows", {"lm_eval": books}, {"lm_eval": picks}]
        data["evaluation"] += [
            {"set": "bookish", "at": "release"}, {"set": "chosen", "n": 5}, *more
        ]  # fmt: skip
        return data

    return make


def keys(data: dict[str, Any]) -> tuple[set[str], set[str], set[str]]:
    plan = Plan(parse_study(data))
    return set(plan.defends), set(plan.trajectories), set(plan.generates)


def test_a_benchmark_more_leaves_every_step_as_it_is(
    study: Study, toy: ModuleType, toy_model: Path
) -> None:
    before = keys(toy.study(toy_model))
    after = keys(study())
    assert before[:2] == after[:2]
    assert before[2] < after[2]


def test_the_metric_counts_and_is_no_part_of_a_key(study: Study) -> None:
    data = study()
    before = Plan(parse_study(data))
    data["sources"][1]["lm_eval"]["metric"] = "acc"
    after = Plan(parse_study(data))
    assert set(before.generates) == set(after.generates)
    assert before.fingerprint != after.fingerprint


def test_a_study_runs_to_a_report(study: Study, toy: ModuleType, tmp_path: Path) -> None:
    file = toy.write(tmp_path / "study.json", study(chunk=2))
    store = tmp_path / "runs"
    assert run(["run", str(file), "--store", str(store), "--workers", "1"]) in (0, 3)
    plan = Plan(parse_study(json.loads(file.read_text())))
    saved = Saved.read(store / "toy")
    table = Outcomes(saved.outcomes)
    assert table.purposes["bookish"] == table.purposes["chosen"] == "lm_eval"
    assert saved.meta["sets"]["bookish"] == "bookish (acc_norm)"
    asked = table.where(set="bookish")
    assert table.numbers["budget"][asked].max() == 0
    assert table.numbers["budget"][table.where(set="chosen")].max() > 0
    found = findings.find(table, saved.lineups, saved.meta, resamples=0)
    rate = found.lineups["none"].release["bookish"]
    assert (rate.n, rate.value is not None) == (4, True)
    assert rate.low < rate.high
    assert found.lineups["none"].release["chosen"].n == 5
    (step, *_) = [
        one for one in plan.generates.values()
        if plan.prompts[one.evaluation].set.name == "bookish"
    ]  # fmt: skip
    kept = Store(store)
    lines = kept.lines("generate", step.key, "exchanges.jsonl")
    assert set(lines[0]["metrics"]) == {"acc", "acc_norm"}
    told = kept.manifest("generate", step.key)["result"]["lm_eval"]
    assert told["acc_norm"]["value"] == rate.value
    assert told["acc_norm"]["n"] == 4
    page = (store / "toy" / "report.html").read_text()
    assert "bookish (acc_norm)" in page
    assert "chosen (acc)" in page


def test_a_document_too_long_is_told_before_anything_runs(
    study: Study, toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = study()
    data["sources"][2]["lm_eval"]["shots"] = 5
    file = toy.write(tmp_path / "study.json", data)
    assert run(["plan", str(file), "--store", str(tmp_path / "runs")]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("holdfast: evaluation set 'chosen': document ")
    assert line.endswith("the model takes 64; set fewer shots, or draw other documents")
