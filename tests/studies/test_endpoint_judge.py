"""A study whose only judge is a model behind an endpoint: whole, out of money, without a key."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.endpoint.serving import Server, serving

from holdfast.api import EvalPurpose
from holdfast.cli import run
from holdfast.engine.store import Store
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(keep_bodies=True, usage=False) as server:
        yield server


def study(toy: ModuleType, model: Path, folder: Path, url: str, **endpoint: Any) -> Path:
    fields = {"model": "judge-1", "base_url": url, "cache": str(folder / "c"), **endpoint}
    data = toy.study(model, judges=[{"rubric": {"endpoint": fields}}])
    return toy.write(folder / "study.json", data)


def command(path: Path) -> int:
    return run(["run", str(path), "--store", str(path.parent / "runs"), "--workers", "1"])


def asked(server: Server) -> list[str]:
    """Give what was sent, in order."""
    return [json.dumps(body["messages"]) for body in server.stats()["bodies"]]


def test_out_of_money_it_fails_its_step_and_the_same_command_goes_on_to_a_report(
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    tmp_path: Path,
    server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = study(toy, toy_model, tmp_path, server.url, budget_tokens=6000, concurrency=1)
    assert command(path) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "endpoint.budget_tokens: " in line
    assert "of 6000 tokens are spent on " in line
    assert "raise it, and the same command goes on" in line
    sent = len(asked(server))

    path = study(toy, toy_model, tmp_path, server.url, budget_tokens=10**6)
    assert command(path) in (0, 3)
    assert (tmp_path / "runs/toy/report.html").is_file()
    whole = asked(server)
    assert len(whole) > sent
    assert len(whole) == len({*whole}) + 7  # the nine of the trial are two texts
    rules = {json.loads(text)[0]["content"] for text in whole}
    assert sum("The request below is harmless." in text for text in rules) == 1
    assert sum("from 1 to 5" in text for text in rules) == 1

    plan, store = Plan(parse_study(json.loads(path.read_text()))), Store(tmp_path / "runs")
    by_set: dict[str, set[tuple[str, bool]]] = {}
    for step in plan.generates.values():
        for key in step.judges.values():
            for line in store.lines("judge", key, "verdicts.jsonl"):
                assert line["reason"] == "ok"
                found = by_set.setdefault(plan.prompts[step.evaluation].set.name, set())
                found.add((line["outcome"], line["score"] is not None))
    assert by_set["restricted"] == {("deflection", True), ("degenerate", False)}
    assert by_set["contrast"] == {("benign_ok", False), ("degenerate", False)}
    assert command(path) in (0, 3)
    assert asked(server) == whole


@pytest.mark.parametrize(("judge", "same"), [("rubric", False), ("toy_judge", True)])
def test_what_a_set_is_for_is_in_the_key_of_a_judge_that_reads_it(
    judge: str,
    same: bool,
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = {"endpoint": {"model": "judge-1", "base_url": "http://127.0.0.1:9/v1"}}
    data = toy.study(toy_model, judges=[{judge: fields if judge == "rubric" else {}}])
    rows = importlib.import_module("toy_rows")

    def keys() -> dict[str, str]:
        """Give the verdicts' keys on one set, by the key of what is judged."""
        plan = Plan(parse_study(data))
        steps = [
            s for s in plan.generates.values() if plan.prompts[s.evaluation].set.name == "contrast"
        ]
        return {step.key: step.judges[0] for step in steps}

    before = keys()
    purpose = EvalPurpose.REFUSED
    changed = [replace(s, purpose=purpose) if s.name == "contrast" else s for s in rows.SETS]
    monkeypatch.setattr(rows, "SETS", tuple(changed))
    after = keys()
    assert before
    assert before.keys() == after.keys()
    assert (before == after) is same


def test_a_missing_key_is_told_before_the_first_step(
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = study(toy, toy_model, tmp_path, "https://judge.example/v1")
    assert run(["plan", str(path), "--store", str(tmp_path / "runs")]) == 0
    capsys.readouterr()
    assert command(path) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "holdfast: study.judges[0].rubric.endpoint.key_env: no key in the environment variable "
        "'OPENAI_API_KEY'; set it there, name another, or write `key_env: null` if the server "
        "needs none"
    )
    assert not [*(tmp_path / "runs").rglob("manifest.json")]
