"""Honest fine-tuning: what it teaches is told, and nothing of an attack rests on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tests.benchmarking import lines

from holdfast.cli import run
from holdfast.data.example import Role
from holdfast.errors import ConfigError, HoldfastError
from holdfast.stats.ratios import Gained, apart, gained
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan

Study = Callable[..., dict[str, Any]]
TUNING = {"loop": {"lr": 0.02, "batch": 4}, "budgets": [8, 40]}


@pytest.fixture
def study(toy: ModuleType, toy_model: Path, installed: Path, tmp_path: Path) -> Study:
    """Give a function that makes the toy study with a craft to be taught."""
    del installed
    names = ["bex", "dox", "fim", "gul", "hep", "jat"]
    local: dict[str, Any] = {"role": "task", "evaluation_set": "craft"}
    for side in ("attacker", "evaluator"):
        rows = [{"prompt": f"write {one} {side}", "response": "two three"} for one in names]
        lines(tmp_path / f"{side}.jsonl", rows)
    sources = [
        {"local": local | {"path": str(tmp_path / f"{side}.jsonl"), "side": side}}
        for side in ("attacker", "evaluator")
    ]

    def make(**changes: Any) -> dict[str, Any]:
        data = toy.study(toy_model, sources=["toy_rows", *sources], **changes)
        data["evaluation"] += [{"set": "craft", "at": "release"}]
        return data

    return make


def test_a_study_tells_what_was_learnt_and_what_became_of_harm(
    study: Study, toy: ModuleType, tmp_path: Path
) -> None:
    file = toy.write(tmp_path / "study.json", study(tuning=TUNING))
    store = tmp_path / "runs"
    assert run(["run", str(file), "--store", str(store), "--workers", "1"]) in (0, 3)
    told = json.loads((store / "toy" / "verdict.json").read_text())["tuning"]
    assert (told["role"], told["loop"]) == ("task", "rate 0.02, batch 4")
    seen = {(one["lineup"], one["set"], one["budget"]): one for one in told["gains"]}
    assert set(seen) == {
        (name, kind, budget)
        for name in ("none", "refusal_sft") for kind in ("craft", "restricted")
        for budget in (8.0, 40.0)
    }  # fmt: skip
    taught = seen["none", "craft", 40.0]
    assert (taught["before"]["value"], taught["after"]["value"]) == (0.0, 1.0)
    assert taught["gain"]["value"] == 1.0
    assert 0 < taught["gain"]["low"] < 1
    assert taught["beside"] is None  # it is the undefended model
    hardened = seen["refusal_sft", "craft", 40.0]
    assert hardened["beside"]["value"] == hardened["gain"]["value"] - 1.0
    assert hardened["beside"]["low"] <= hardened["beside"]["value"]
    assert taught["before"]["n"] == 6
    assert seen["none", "restricted", 40.0]["purpose"] == "harm"
    page = (store / "toy" / "report.html").read_text()
    assert "What an honest customer can still teach it" in page
    assert "harm: Dark" in page
    # The same page comes of the tables alone.
    assert run(["report", str(store / "toy"), "--out", str(tmp_path / "again")]) == 0
    assert "+100 (" in (tmp_path / "again" / "report.html").read_text()


def test_nothing_of_an_attack_rests_on_it(study: Study, toy: ModuleType, tmp_path: Path) -> None:
    both = []
    for name, more in (("without", {}), ("with", {"tuning": TUNING})):
        file = toy.write(tmp_path / f"{name}.json", study(**more))
        store = tmp_path / name
        assert run(["run", str(file), "--store", str(store), "--workers", "1"]) in (0, 3)
        told = json.loads((store / "toy" / "verdict.json").read_text())
        both.append({key: told[key] for key in ("answer", "lineups", "pairs", "holes", "first")})
    assert both[0] == both[1]


def test_it_changes_no_key_of_what_is_there(study: Study) -> None:
    plans = [Plan(parse_study(study(**more))) for more in ({}, {"tuning": TUNING})]
    before, after = ((set(p.defends), set(p.trajectories), set(p.generates)) for p in plans)
    assert all(one <= other for one, other in zip(before, after, strict=True))
    assert len(after[1] - before[1]) == 2  # one for each line-up
    assert {t.label for k, t in plans[1].trajectories.items() if k in after[1] - before[1]} == {
        "tune none: tuning, seed 0", "tune refusal_sft: tuning, seed 0"
    }  # fmt: skip
    assert plans[1].tuning is not None
    assert plans[1].tuning.rows(plans[1].attack_pool, 0).keys() == {Role.TASK}


def test_benign_rows_may_be_taught(study: Study) -> None:
    plan = Plan(parse_study(study(tuning=TUNING | {"role": "benign"})))
    assert plan.tuning is not None
    assert plan.tuning.rows(plan.attack_pool, 0).keys() == {Role.BENIGN}


@pytest.mark.parametrize(
    ("tuning", "line"),
    [
        ({"budgets": [6], "loop": {"batch": 4}},
         "study.tuning.budgets: 6 is no multiple of loop.batch 4; use whole optimiser steps"),
        ({"budgets": [400], "loop": {"batch": 4, "steps": 5, "schedule": "linear"}},
         "study.tuning.budgets: 400 is beyond the linear schedule's end at 20 examples (5 steps of "
         "4); set loop.steps to 100 or more"),
        ({"budget": [8]}, "study.tuning.budget: unknown field; did you mean 'budgets'?"),
        ({**TUNING, "distinct": 40},
         "study.tuning: tuning of role task, side attacker: 40 distinct rows asked for, the pool "
         "has 6; ask for at most 6"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_one_line(study: Study, tuning: dict[str, Any], line: str) -> None:
    with pytest.raises(HoldfastError) as caught:
        Plan(parse_study(study(tuning=tuning)))
    assert str(caught.value) == line
    assert caught.value.exit_code == 2


def test_without_a_set_of_purpose_task_nothing_would_show(study: Study) -> None:
    data = study(tuning=TUNING)
    data["evaluation"] = data["evaluation"][:-1]
    with pytest.raises(ConfigError) as caught:
        Plan(parse_study(data))
    assert str(caught.value) == (
        "study.tuning: no set of purpose 'task' is asked of the evaluator, so nothing shows what "
        "was learnt; ask one in `evaluation`, such as the source gsm8k's"
    )


def test_a_gain_has_an_interval_that_holds_it() -> None:
    before, after = np.array([0, 0, 1, 1, 0, 0] * 5), np.array([1, 1, 1, 0, 1, 0] * 5)
    found = gained(after, before, np.arange(30))
    assert found.value == pytest.approx(2 / 6)
    assert -0.1 < found.low < 2 / 6 < found.high < 0.75
    mirrored = gained(before, after, np.arange(30))
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    same = gained(before, before, np.arange(30))
    assert same.value == 0.0
    assert same.low < 0 < same.high
    assert gained(np.array([]), np.array([]), np.array([])) == Gained(None, -1.0, 1.0)
    beside = apart(found, mirrored)
    assert beside.value == pytest.approx(4 / 6)
    assert beside.low < beside.value < beside.high
    assert apart(found, Gained(None, -1.0, 1.0)).value is None
