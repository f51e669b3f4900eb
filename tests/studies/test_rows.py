"""Rows: the same wherever and whenever they are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast import nn
from holdfast.engine import local, tables
from holdfast.engine.store import Store
from holdfast.errors import StoreError, TrainingError
from holdfast.nn.files import resolve
from holdfast.stats.cells import invalid
from holdfast.stats.rows import Outcomes
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan

Rows = list[dict[str, Any]]
Do = Callable[..., tuple[Rows, local.Done]]


@pytest.fixture
def do(toy: ModuleType, toy_model: Path, installed: Path) -> Do:
    """Give a function that runs the toy study, with parts changed, and gives its rows."""

    def run(folder: Path, *, options: dict[str, Any] | None = None, **changes: Any) -> Any:
        plan, store = Plan(parse_study(toy.study(toy_model, **changes))), Store(folder)
        with store.held():
            done = local.run(plan, store, workers=1, **(options or {}))
        return ([] if done.failures else tables.outcomes(plan, store)), done

    return run


def attack(*budgets: int, **fields: Any) -> dict[str, Any]:
    loop = {"batch": 2, "lr": 0.03, "checkpoint_every": 1}
    return {"harmful_sft": {"loop": loop, "evaluate_at": list(budgets), **fields}}


def test_the_same_study_in_two_folders_gives_identical_rows(do: Do, tmp_path: Path) -> None:
    first, done = do(tmp_path / "a")
    second, _ = do(tmp_path / "b")

    assert first == second
    assert done.finished == 17
    assert len(first) == 6 * 3 * (12 + 4 + 4 + 4 + 4 + 2)


def test_a_second_run_does_nothing(do: Do, tmp_path: Path) -> None:
    first, _ = do(tmp_path)
    second, done = do(tmp_path)

    assert (second, done.finished) == (first, 0)


def test_one_more_budget_leaves_existing_rows_unchanged(do: Do, tmp_path: Path) -> None:
    short, _ = do(tmp_path, attacks={"harmful_sft": [attack(4, 8)]})
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "generate").iterdir()}
    long, done = do(tmp_path, attacks={"harmful_sft": [attack(4, 8, 12)]})

    assert [row for row in long if row["budget"] < 12] == short
    assert done.finished == 2 + 2  # each model attacked further, then judged
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "generate").iterdir()}
    assert made.items() <= again.items()


def test_a_budget_between_two_equals_the_one_asked_for_alone(do: Do, tmp_path: Path) -> None:
    do(tmp_path / "a", attacks={"harmful_sft": [attack(4, 12)]})
    later, _ = do(tmp_path / "a", attacks={"harmful_sft": [attack(4, 8, 12)]})
    alone, _ = do(tmp_path / "b", attacks={"harmful_sft": [attack(4, 8, 12)]})

    assert later == alone


def test_a_new_prompt_set_leaves_existing_rows_unchanged(
    do: Do, toy: ModuleType, tmp_path: Path
) -> None:
    before, _ = do(tmp_path)
    sets = [*toy.study(Path())["evaluation"], {"set": "benign", "side": "attacker", "n": 2}]
    after, _ = do(tmp_path, evaluation=sets)

    assert [row for row in after if row["side"] != "attacker"] == before
    assert len(after) > len(before)


HELD: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16_pure"},
    "an adapter on bf16": {"precision": "bf16_pure", "lora": {"rank": 2, "alpha": 32.0}},
}


@pytest.mark.parametrize("held", HELD)
def test_kept_weights_answer_a_new_prompt_set_without_a_replay(
    do: Do, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    """What was asked while it was attacked is what was kept, in its dtype and merged."""
    sft = attack(4, 8)
    sft["harmful_sft"]["loop"] |= HELD[held]
    attacks = {"harmful_sft": [sft]} if HELD[held] else toy.study(Path())["attacks"]
    do(tmp_path, options={"keep_weights": True}, attacks=attacks)
    sets = [*toy.study(Path())["evaluation"], {"set": "benign", "side": "attacker", "n": 2}]
    monkeypatch.setattr("holdfast.train.attack", None)
    options = {"keep_weights": True}
    kept, done = do(tmp_path, options=options, attacks=attacks, evaluation=sets)
    monkeypatch.undo()
    replayed, _ = do(tmp_path / "fresh", attacks=attacks, evaluation=sets)

    assert not done.failures
    assert kept == replayed
    marker = json.loads(next((tmp_path / "point").glob("*/holdfast.json")).read_text())
    assert marker["attacked"] is True
    assert list(marker["content"]) == ["model.safetensors"]


def test_what_a_defence_makes_is_saved_as_its_base_is(
    do: Do, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    """A release in bf16 is attacked as it would be published, and is a step of its own."""
    loaded, tokenizer = nn.load(toy_model)
    (tmp_path / "half").mkdir()
    nn.save(loaded, tokenizer, tmp_path / "half", dtype="bf16")
    half = {"base": {"path": str(tmp_path / "half"), "format": "plain"}}
    rows, _ = do(tmp_path / "store", models=half, attacks={"harmful_sft": [attack(4)]})
    assert rows
    (made,) = (tmp_path / "store" / "defend").iterdir()
    assert resolve(str(made)).dtype() == "bf16"
    said = json.loads((made / "holdfast.json").read_text())
    base = (tmp_path / "half" / "model.safetensors").read_bytes()
    assert said["dtype"] == "bf16"
    assert said["content"] == {"model.safetensors": hashlib.sha256(base).hexdigest()}
    assert json.loads((made / "manifest.json").read_text())["config"]["dtype"] == "bf16"
    plain = Plan(parse_study(toy.study(toy_model)))
    assert all("dtype" not in step.config for step in plain.defends.values())


def test_the_chunk_size_does_not_change_rows(do: Do, tmp_path: Path) -> None:
    small, _ = do(tmp_path / "a", chunk=2)
    large, _ = do(tmp_path / "b", chunk=1000)

    assert small == large


def test_two_workers_give_the_rows_of_one(
    do: Do, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    one, _ = do(tmp_path / "a")
    plan, store = Plan(parse_study(toy.study(toy_model))), Store(tmp_path / "b")
    with store.held():
        done = local.run(plan, store, workers=2)

    assert not done.failures
    assert tables.outcomes(plan, store) == one


def test_rows_say_what_was_asked_and_what_it_cost(do: Do, tmp_path: Path) -> None:
    rows, _ = do(tmp_path)
    by_set = {row["set"]: row for row in rows if row["budget"] == 8}

    assert {row["judge"] for row in rows if row["set"] == "restricted"} == {"toy_judge"}
    assert by_set["benign"]["judge"] == "exact"
    assert by_set["contrast"]["outcome"] in ("refusal", "benign_ok")
    assert by_set["quiz"]["finish_reason"] == "choice"
    assert by_set["restricted"]["steps"] == 4
    assert by_set["restricted"]["flops"] > 0
    assert by_set["restricted"]["access"] == "weights"
    assert {row["unit"] for row in rows if row["attack"] == "strip"} == {"t"}
    assert all(row["steps"] == 0 for row in rows if row["budget"] == 0)


def test_line_ups_say_what_their_defences_cost(
    do: Do, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    do(tmp_path)
    plan = Plan(parse_study(toy.study(toy_model)))
    none, sft = tables.lineups(plan, Store(tmp_path))

    assert (none["defences"], none["steps"], none["flops"]) == ("none", 0, 0.0)
    assert sft["defences"].startswith("refusal_sft(loop=(steps=6")
    assert sft["steps"] == 6
    assert sft["flops"] > 0


def test_a_judge_without_words_makes_every_harm_cell_invalid(do: Do, tmp_path: Path) -> None:
    rows, _ = do(tmp_path, judges=[{"toy_judge": {"silent": True}}])

    assert all(row["score"] is None for row in rows)
    first = invalid(Outcomes(rows))[0]
    assert first == (
        "none under harmful_sft lr=0.003 seed 0 budget 0, restricted by toy_judge: "
        "12 of 12 unscored"
    )


def test_a_failed_step_holds_up_only_what_stands_on_it(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TrainingError("train step 3", "the loss is nan", "lower lr")

    monkeypatch.setattr("holdfast.train.harden", fail)
    rows, done = do(tmp_path)

    assert rows == []
    assert [str(error) for error in done.failures] == [
        "defend refusal_sft: refusal_sft, seed 0: train step 3: the loss is nan; lower lr"
    ]
    assert done.finished == 8  # release and three attacks on the base, judged
    assert done.held_up == 8

    monkeypatch.undo()
    rows, done = do(tmp_path)
    assert (len(rows) > 0, done.finished) == (True, 9)


def test_an_unforeseen_error_is_one_line_with_the_traceback_kept(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("holdfast.train.harden", fail)
    _, done = do(tmp_path)

    line = str(done.failures[0])
    assert line.startswith(
        "defend refusal_sft: refusal_sft, seed 0: ZeroDivisionError in test_rows.py, line "
    )
    assert line.endswith("; see last-error.txt in the store (it may quote your rows); report it")
    kept = (tmp_path / "last-error.txt").read_text()
    assert "Traceback" in kept
    assert "division by zero" in kept  # its own words are kept, and not shown


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from holdfast import disk

    real, calls = disk.sync, 0

    def full(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls > 40:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(disk, "sync", full)
    _, done = do(tmp_path)
    monkeypatch.undo()

    assert all(isinstance(error, StoreError) for error in done.failures)
    assert str(done.failures[-1]).endswith(
        "cannot be written (no space left on device); free some space and run the same command "
        "again"
    )
    assert not list(tmp_path.rglob("tmp-*"))
    for kind in ("defend", "generate", "judge"):
        for artefact in (tmp_path / kind).glob("*"):
            assert (artefact / "manifest.json").is_file()
    rows, done = do(tmp_path)
    assert (len(rows) > 0, done.failures) == (True, [])


def test_a_model_that_changes_after_the_plan_is_refused(
    toy: ModuleType, toy_model: Path, installed: Path, tmp_path: Path
) -> None:
    import shutil

    model = shutil.copytree(toy_model, tmp_path / "model")
    plan, store = Plan(parse_study(toy.study(model))), Store(tmp_path / "runs")
    toy.model(model, seed=1)
    with store.held():
        done = local.run(plan, store, workers=1)

    assert done.finished == 0
    assert str(done.failures[0]) == (
        "defend refusal_sft: refusal_sft, seed 0: model 'base': its files changed since the plan "
        "was made; run again"
    )
