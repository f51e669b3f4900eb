"""A study asks benchmarks of lm-eval: planned, asked, counted and shown as any set is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.benchmarking import lines, tasks

from holdfast.cli import run
from holdfast.engine.store import Store
from holdfast.errors import ConfigError
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


def test_benign_utility_may_be_counted_on_a_benchmark(
    study: Study, toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = study(utility=["bookish"])
    before = keys(data)
    data["evaluation"] = [one for one in data["evaluation"] if one["set"] != "benign"]
    data["evaluation"] += [{"set": "benign", "side": "attacker_selection", "n": 2}]
    assert keys(study(utility=["chosen"])) == before  # it is no part of a key
    file = toy.write(tmp_path / "study.json", data)
    store = tmp_path / "runs"
    assert run(["plan", str(file), "--store", str(store)]) == 0
    assert "benign utility is not known" not in capsys.readouterr().err
    assert run(["run", str(file), "--store", str(store), "--workers", "1"]) in (0, 3)
    verdict = json.loads((store / "toy" / "verdict.json").read_text())
    assert verdict["study"]["utility"] == ["bookish"]
    assert verdict["lineups"]["refusal_sft"]["use"]["clusters"] == 4
    page = (store / "toy" / "report.html").read_text()
    assert "Benign utility is counted on bookish (acc_norm)." in page


def test_without_known_answers_a_plan_and_a_report_say_so(
    study: Study, toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = {"harmful_sft": [{"harmful_sft": {"loop": {"batch": 2}, "evaluate_at": [4]}}]}
    data = study(attacks=choices)
    gone = ("benign", "contrast")
    data["evaluation"] = [one for one in data["evaluation"] if one["set"] not in gone]
    file = toy.write(tmp_path / "study.json", data)
    store = tmp_path / "runs"
    assert run(["plan", str(file), "--store", str(store)]) == 0
    told = (
        "no set of purpose 'exact' is asked of the evaluator: benign utility is not known, and no "
        "line-up is shown to be of use; write `utility: [quiz]`, or ask a set with known answers"
    )
    assert f"warning: {told}" in capsys.readouterr().err.replace("\n", " ")
    assert run(["run", str(file), "--store", str(store), "--workers", "1"]) in (0, 3)
    verdict = json.loads((store / "toy" / "verdict.json").read_text())
    assert told in verdict["not_tested"]
    page = (store / "toy" / "report.html").read_text()
    assert "Benign utility is not known: no set with known answers." in page


@pytest.mark.parametrize(
    ("utility", "line"),
    [
        ("chosn", "study.utility[0]: set 'chosn' is not asked of side 'evaluator'; did you mean "
                  "'chosen'?"),
        ("contrast", "study.utility[0]: set 'contrast' is of purpose 'over_refusal', which has no "
                     "right answer; known: benign, bookish, chosen, quiz"),
    ],
)  # fmt: skip
def test_utility_that_is_not_asked_or_not_counted_is_one_line(
    study: Study, utility: str, line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Plan(parse_study(study(utility=[utility])))
    assert str(caught.value) == line


@pytest.mark.parametrize("match", ["normalised", "contained"])
def test_a_file_says_how_its_answers_are_compared(
    match: str, toy: ModuleType, toy_model: Path, installed: Path, tmp_path: Path
) -> None:
    """It is no part of a key: answers that are there are compared anew."""
    rows = [{"prompt": f"pick {name}", "answer": name} for name in ("one", "two", "three")]
    file = lines(tmp_path / "answers.jsonl", rows)

    def data(**more: str) -> dict[str, Any]:
        local = {
            "path": str(file), "role": "benign", "response": None, "answer": "answer",
            "evaluation_set": "answers", "side": "evaluator",
        }  # fmt: skip
        made = toy.study(toy_model, sources=["toy_rows", {"local": local | more}])
        made["evaluation"] = [*made["evaluation"], {"set": "answers"}]
        return made

    assert keys(data()) == keys(data(match=match))
    path = toy.write(tmp_path / "study.json", data())
    store = tmp_path / "runs"
    assert run(["run", str(path), "--store", str(store), "--workers", "1"]) in (0, 3)
    toy.write(path, data(match=match))
    assert run(["run", str(path), "--store", str(store), "--workers", "1"]) in (0, 3)
    page = (store / "toy" / "report.html").read_text()
    words = {
        "normalised": "answers: share answered so, case, punctuation and articles aside.",
        "contained": "answers: share whose answer contains the known one, normalised.",
    }
    assert words[match] in page


def test_a_plan_says_where_no_answer_shows_what_an_attack_does_to_use(
    study: Study, toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = study()
    for one in data["evaluation"]:
        if one["set"] == "benign" and one.get("side", "evaluator") == "evaluator":
            one["at"] = "release"
    file = toy.write(tmp_path / "study.json", data)
    assert run(["plan", str(file), "--store", str(tmp_path / "runs")]) == 0
    assert (
        "warning: benign: asked `at: release` alone, so after an attack only degenerate answers "
        "tell that a model is of no use any more; leave `at` out for one of them"
    ) in capsys.readouterr().err.replace("\n", " ")
