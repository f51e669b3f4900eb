"""Whether a defence acted: the rule, the steps that measure, and what table and report say."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.engine import local, tables
from holdfast.engine.store import Store
from holdfast.report.html import render
from holdfast.stats.inert import acted, unknown
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan

Make = Callable[..., Plan]


# ---- the rule


@pytest.mark.parametrize(
    ("values", "moves", "did"),
    [
        ([4.0, 3.5, 9.0], "up", True),  # the range 1 to 2 has width 1: from 3 on
        ([3.0, 4.0, 5.0], "up", True),
        ([2.75, 4.0, 5.0], "up", False),
        ([0.0, -1.0, -0.5], "up", False),  # outside, on the wrong side
        ([0.0, -1.0, -0.5], "down", True),
        ([0.25, -1.0, -0.5], "down", False),
        ([1.5, 4.0, 5.0], "up", False),
    ],
)
def test_every_value_lies_beyond_the_range_by_its_width(
    values: list[float], moves: Any, did: bool
) -> None:
    assert acted(values, [1.0, 2.0, 1.5], moves) is did


def test_a_range_without_width_must_still_be_left() -> None:
    assert not acted([2.0, 3.0], [2.0, 2.0], "up")
    assert acted([2.5, 3.0], [2.0, 2.0], "up")
    assert not acted([2.0, 1.0], [2.0, 2.0], "down")


def test_what_cannot_be_decided_says_why() -> None:
    both = {0: 1.0, 1: 2.0}

    assert unknown([0, 1], both, both) == ""
    assert unknown([0], {0: 1.0}, {0: 1.0}) == "one seed has no range"
    assert unknown([0, 1], {0: 1.0}, both) == "nothing to measure it on at seed 1"
    assert unknown([0, 1], both, {1: 1.0}) == "nothing to measure it on at seed 0"
    assert unknown([0, 1], both, {0: 1.0, 1: math.nan}) == "not a number at seed 1"


# ---- the plan


def lineups(toy: ModuleType, model: Path, **more: Any) -> dict[str, Any]:
    """Give the toy line-ups, and two that nudge: one does and one does not."""
    made = toy.study(model)["lineups"]
    made["nudge"] = {"start": "base", "defences": ["toy_nudge"]}
    made["still"] = {"start": "base", "defences": [{"toy_nudge": {"by": 0.0}}]}
    return made | more


def small(toy: ModuleType, model: Path, **changes: Any) -> dict[str, Any]:
    """Give a study of those line-ups with next to nothing asked."""
    sets = [{"set": "restricted", "n": 2}, {"set": "benign", "n": 2}]
    given = {
        "seeds": [0, 1],
        "lineups": lineups(toy, model),
        "attacks": {"strip": [{"strip": {"evaluate_at": [1.0]}}]},
        "evaluation": sets,
    }
    return toy.study(model, **(given | changes))


@pytest.fixture
def plan(toy: ModuleType, toy_model: Path, installed: Path) -> Make:
    """Give a function that plans that study with some parts changed."""
    return lambda **changes: Plan(parse_study(small(toy, toy_model, **changes)))


def test_a_model_hardened_elsewhere_brings_what_that_took(
    plan: Make, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    """Its own note says 20 steps: the table does not say that none were taken."""
    hardened = shutil.copytree(toy_model, tmp_path / "hardened")
    note = {"defences": [{"name": "sgt", "fields": {}}], "steps": 20, "flops": 5.0}
    (hardened / "holdfast.json").write_text(json.dumps(note))
    models = toy.study(toy_model)["models"]
    models["other"] = models["base"] | {"path": str(hardened)}
    found = plan(
        models=models,
        lineups={"none": {"start": "base"}, "hardened": {"start": "other"}},
        analysis=None,
    )
    rows = tables.lineups(found, Store(tmp_path / "store"))
    told = {row["lineup"]: (row["steps"], row["flops"]) for row in rows}
    assert told == {"none": (0, 0.0), "hardened": (20, 5.0)}


def test_a_signal_is_measured_on_plain_refusal_fine_tuning_at_each_seed(plan: Make) -> None:
    made = plan()

    assert set(made.measures) == {(name, seed) for name in ("nudge", "still") for seed in (0, 1)}
    assert len(made.needed["measure"]) == 4
    for (lineup, seed), step in made.measures.items():
        assert step.label == f"measure refusal_sft as {lineup}: toy_nudge, seed {seed}"
        assert step.beside.method.name() == "refusal_sft"
        assert (step.beside.seed, step.step.seed) == (seed, seed)
        assert step.inputs == [step.beside.key, step.step.key]


def test_the_last_defence_with_a_signal_decides(
    plan: Make, toy: ModuleType, toy_model: Path
) -> None:
    sft = toy.study(toy_model)["lineups"]["refusal_sft"]["defences"][0]
    row = {"start": "base", "defences": [{"toy_nudge": {"by": 0.5}}, "toy_nudge", sft]}
    made = plan(lineups=lineups(toy, toy_model, both=row))
    step = made.measures["both", 0].step

    assert step.method.by == 1.0
    assert step.before is not None
    assert step.before.method.by == 0.5


def test_measures_depend_on_both_models_and_on_nothing_else(
    plan: Make, toy: ModuleType, toy_model: Path
) -> None:
    first = plan()
    asked = plan(evaluation=[{"set": "restricted", "n": 3}], thresholds=[0.5])
    other = lineups(toy, toy_model)
    other["refusal_sft"]["defences"][0]["refusal_sft"]["benign_weight"] = 2.0

    assert asked.needed["measure"] == first.needed["measure"]
    assert not plan(lineups=other).needed["measure"] & first.needed["measure"]
    assert {step.key for step in first.measures.values()} <= first.needed["measure"]
    other = lineups(toy, toy_model, still={"start": "base", "defences": ["toy_nudge"]})
    shared = plan(lineups=other)
    assert shared.measures["still", 0].key == shared.measures["nudge", 0].key


def test_without_plain_refusal_fine_tuning_nothing_is_measured(
    plan: Make, toy: ModuleType, toy_model: Path
) -> None:
    without = {k: v for k, v in lineups(toy, toy_model).items() if k != "refusal_sft"}
    sft = toy.study(toy_model)["lineups"]["refusal_sft"]["defences"][0]
    mixed = {"start": "base", "defences": [sft, "toy_nudge"]}

    assert plan(lineups=without).measures == {}
    assert plan(lineups=lineups(toy, toy_model, refusal_sft=mixed)).measures == {}
    assert plan(reference={"plain": "nudge"}).measures == {}


def test_a_model_of_other_weights_is_no_reference(
    plan: Make, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    other = toy.model(tmp_path / "other", seed=3)
    models = {
        "base": {"path": str(toy_model), "format": "plain"},
        "other": {"path": str(other), "format": "plain"},
    }
    moved = lineups(toy, toy_model, nudge={"start": "other", "defences": ["toy_nudge"]})
    made = plan(models=models, lineups=moved)

    assert {name for name, _ in made.measures} == {"still"}


# ---- table and report


def conducted(plan: Plan, folder: Path) -> tuple[list[dict[str, Any]], Any]:
    store = Store(folder)
    with store.held():
        done = local.run(plan, store, workers=1)
    assert not done.failures
    return tables.lineups(plan, store), done


def test_an_inert_line_up_is_told_in_table_and_report(plan: Make, tmp_path: Path) -> None:
    made, store = plan(), Store(tmp_path)
    rows, _ = conducted(made, tmp_path)
    by_place = {(row["lineup"], row["seed"]): row for row in rows}

    assert {name: by_place[name, 0]["inert"] for name in made.study.lineups} == {
        "none": None, "refusal_sft": None, "nudge": False, "still": True,
    }  # fmt: skip
    own, plain = by_place["nudge", 1]["measured"], by_place["nudge", 1]["beside"]
    assert own == pytest.approx(2 * by_place["still", 1]["measured"])
    assert plain == by_place["still", 1]["beside"]
    assert plain != by_place["nudge", 0]["beside"]
    assert by_place["nudge", 0]["signal"] == "height"
    assert by_place["refusal_sft", 0]["signal"] == ""

    page = render(tables.outcomes(made, store), rows, tables.meta(made, store))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "unranked: inert: the defence did not do what it is for" in text
    values = [
        [f"{by_place[name, seed][part]:.3g}" for seed in (0, 1)]
        for name, part in (("nudge", "measured"), ("nudge", "beside"), ("still", "measured"))
    ]
    own, plain, still = (", ".join(some) for some in values)
    assert f"height higher {own} {plain} acted" in text
    assert f"height higher {still} {plain} inert" in text
    assert conducted(made, tmp_path)[1].finished == 0


def test_one_seed_decides_nothing(plan: Make, tmp_path: Path) -> None:
    made = plan(seeds=[0])
    rows, _ = conducted(made, tmp_path)

    assert {row["inert"] for row in rows} == {None}
    assert {row["undecided"] for row in rows} == {"", "one seed has no range"}
    store = Store(tmp_path)
    page = render(tables.outcomes(made, store), rows, tables.meta(made, store))
    assert "undecided: one seed has no range" in page


def test_a_study_without_the_reference_says_so(
    plan: Make, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    without = {k: v for k, v in lineups(toy, toy_model).items() if k in ("none", "nudge")}
    made = plan(lineups=without)
    rows, _ = conducted(made, tmp_path)

    assert rows[-1]["undecided"] == "no line-up 'refusal_sft' of refusal_sft alone"
    assert (
        "no line-up 'refusal_sft': no defence is checked for having done nothing"
        in tables.meta(made, Store(tmp_path))["not_tested"]
    )


def test_killed_while_measuring_the_same_command_goes_on(
    root: Path, toy: ModuleType, toy_model: Path, toy_plugin: Path, tmp_path: Path
) -> None:
    study = toy.write(tmp_path / "toy.json", small(toy, toy_model))
    paths = os.pathsep.join([str(root / "src"), str(toy_plugin)])

    def run(*head: str, store: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *head, "run", str(study), "--workers", "1", "--store", store]
        return subprocess.run(
            command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
            check=False, cwd=tmp_path, timeout=240,
        )  # fmt: skip

    killer = str(Path(__file__).with_name("killer.py"))
    for calls, when in (("1", "before"), ("2", "after")):
        killed = run(killer, "holdfast.train.measuring:measure", calls, when, store="runs")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = run("-m", "holdfast", store="runs")
    assert finished.returncode == 0, finished.stderr
    whole = run("-m", "holdfast", store="whole")
    assert whole.returncode == 0, whole.stderr

    for name in ("lineups.csv", "rows.csv"):
        assert (tmp_path / "runs/toy" / name).read_bytes() == (
            tmp_path / "whole/toy" / name
        ).read_bytes()
    assert len(list((tmp_path / "runs/measure").iterdir())) == 4
    assert not list((tmp_path / "runs").rglob("tmp-*"))
