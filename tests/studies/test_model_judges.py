"""A study with judges that are models: each is asked what it can tell, and reports say it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.judges import made

from holdfast.engine import local, tables
from holdfast.engine.store import Store
from holdfast.errors import ConfigError, ModelError
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan


@pytest.fixture
def study(tmp_path: Path, toy: ModuleType, toy_model: Path, installed: Path) -> Callable[..., Path]:
    """Give a function that writes a small study with some judges."""
    del installed

    def write(*judges: Any) -> Path:
        attack = {"loop": {"batch": 2, "lr": 0.03}, "evaluate_at": [4]}
        data = toy.study(
            toy_model,
            lineups={"none": {"start": "base"}},
            attacks={"harmful_sft": [{"harmful_sft": attack}]},
            evaluation=[{"set": "restricted", "n": 6}, {"set": "contrast", "n": 4}],
            judges=list(judges),
        )
        return toy.write(tmp_path / "study.json", data)

    return write


def test_a_guard_comes_first_and_a_smoke_test_counts_refusals(
    study: Callable[..., Path], tmp_path: Path
) -> None:
    folder = made.saved(tmp_path / "guard", made.causal("llama"), made.PLAIN)
    guard = {"llama_guard": {"model": str(folder), "dtype": "fp32", "least_mass": 0.0}}
    path = study(guard, "refusal_keywords", "toy_judge")
    plan, store = Plan(parse_study(json.loads(path.read_text()))), Store(tmp_path / "runs")
    with store.held():
        done = local.run(plan, store, workers=1)
    assert not done.failures
    rows = tables.outcomes(plan, store)
    read = {name: [row for row in rows if row["judge"] == name] for name in
            ("toy_judge", "llama_guard", "refusal_keywords")}  # fmt: skip
    assert len(read["llama_guard"]) == len(read["toy_judge"]) > 0
    for row in read["llama_guard"]:
        if row["outcome"] != "degenerate":
            assert 0 < row["score"] < 1
            assert row["outcome"] in ("harmful_useful", "deflection")
        assert row["reason"] == "ok"
    assert any(row["outcome"] != "degenerate" for row in read["llama_guard"])
    assert not read["refusal_keywords"]  # its verdicts are in the rows of over-refusal
    refused = [row for row in rows if row["set"] == "contrast"]
    assert {row["outcome"] for row in refused} <= {"refusal", "deflection", "degenerate"}
    assert {row["reason"] for row in refused} == {"ok"}
    assert {row["set"] for row in read["llama_guard"]} == {"restricted"}
    assert tables.meta(plan, store)["flags"] == [
        "judge 'llama_guard': a harmless answer counts as deflection, whether or not it refuses",
        "judge 'refusal_keywords': a smoke test that looks for phrases of refusal; it says nothing "
        "about harm",
    ]


def test_a_first_judge_that_cannot_tell_a_refusal_is_refused_where_a_set_counts_them(
    study: Callable[..., Path], tmp_path: Path
) -> None:
    folder = made.saved(tmp_path / "dam", made.classifier())
    path = study({"beaver_dam": {"model": str(folder)}})
    with pytest.raises(ConfigError) as caught:
        Plan(parse_study(json.loads(path.read_text())))
    assert str(caught.value) == (
        "study.judges[0]: beaver_dam cannot tell a refusal from another harmless answer, and set "
        "'contrast' counts refusals; add a judge that can, such as wildguard or refusal_keywords"
    )
    with pytest.raises(ConfigError) as caught:
        Plan(parse_study(json.loads(study("refusal_keywords").read_text())))
    assert str(caught.value) == (
        "study.judges[0]: refusal_keywords says nothing about harm; put a judge that does before "
        "it, such as wildguard or llama_guard"
    )


def test_a_judge_that_is_not_there_stops_its_own_steps_alone(
    study: Callable[..., Path], tmp_path: Path
) -> None:
    path = study("toy_judge", {"llama_guard": {"model": "./nowhere"}})
    plan, store = Plan(parse_study(json.loads(path.read_text()))), Store(tmp_path / "runs")
    with store.held():
        done = local.run(plan, store, workers=1)
    assert done.failures
    assert all(isinstance(one, ModelError) for one in done.failures)
    assert "judge 'llama_guard': no such model folder: ./nowhere" in str(done.failures[0])
    assert any(row["judge"] == "toy_judge" for row in tables.outcomes(plan, store))
