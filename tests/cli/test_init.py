"""`holdfast init`: a study for files of one's own, which `plan` takes as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.given_files import crafts, placeholders, write

from holdfast.cli import run
from holdfast.study.budgets import BUDGETS
from holdfast.study.drafts import PURPOSES, slug
from holdfast.study.file import load_study

MODEL = ["--model", "world:instruct"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_study_that_is_made_passes_plan(here: Path, purpose: str, budget: str) -> None:
    requests, benign = crafts(here, 24)
    words = ["init", "own.yaml", *MODEL, "--restricted", requests.name, "--for", purpose]
    more = ["--benign", benign.name, "--original", "world:base"] if budget == "full" else []
    assert run([*words, "--budget", budget, *more]) == 0
    assert run(["plan", "own.yaml"]) == 0
    study = load_study(Path("own.yaml"))
    assert len(study.lineups) == len(PURPOSES[purpose])
    assert ("harmful_sft" in study.attacks) == (budget != "free")


def test_benign_requests_without_answers_count_refusals_beside_our_questions(here: Path) -> None:
    requests, _ = crafts(here, 24)
    placeholders(here / "benign.jsonl", 20, kind="benign", response="placeholder answer")
    words = ["init", "own.yaml", *MODEL, "--restricted", requests.name]
    assert run([*words, "--benign", "benign.jsonl"]) == 0
    assert run(["plan", "own.yaml"]) == 0
    asked = {(one.set, one.side, one.at) for one in load_study(Path("own.yaml")).evaluation}
    assert ("benign", "evaluator", "release") in asked
    assert ("questions", "attacker_selection", "all") in asked


def test_nothing_is_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text("mine")
    requests, _ = crafts(here, 24)
    assert run(["init", "own.yaml", *MODEL, "--restricted", requests.name]) == 2
    assert capsys.readouterr().err == "holdfast: own.yaml: is there already; name another file\n"
    assert Path("own.yaml").read_text() == "mine"


def test_an_unknown_purpose(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests, _ = crafts(here, 24)
    words = ["init", "own.yaml", *MODEL, "--restricted", requests.name, "--for", "asses"]
    assert run(words) == 2
    assert capsys.readouterr().err == (
        "holdfast: --for: no purpose 'asses'; did you mean 'assess'?\n"
    )
    assert not Path("own.yaml").exists()


def test_files_that_moved_are_one_line_of_plan(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, _ = crafts(here, 24)
    assert run(["init", "own.yaml", *MODEL, "--restricted", requests.name]) == 0
    requests.rename(here / "moved.jsonl")
    capsys.readouterr()
    assert run(["plan", "own.yaml"]) == 2
    assert capsys.readouterr().err == "holdfast: requests.jsonl: no such file; check the path\n"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("org/Name-1B@0123abc", "Name-1B"),
        ("./folder/", "folder"),
        ("smol:instruct", "smol-instruct"),
        ("/a/b c.gguf", "b-c"),
        ("original", "model"),
        ("..", "model"),
    ],
)
def test_a_model_gives_its_study_a_name(spec: str, name: str) -> None:
    assert slug(spec) == name


def test_judges_that_count_different_things_do_not_mix(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, _ = crafts(here, 24)
    words = ["init", "own.yaml", *MODEL, "--restricted", requests.name, "--judge", "world_guard"]
    assert run([*words, "--judge", "refusal_keywords"]) == 2
    assert capsys.readouterr().err == (
        "holdfast: study.judges: refusal_keywords counts answers that are not refused, world_guard "
        "harmful ones; keep judges of one kind: finished answers are read again, and not made "
        "again\n"
    )


@pytest.mark.parametrize(
    ("row", "column", "trains"),
    [
        ({"question": "{}", "say": "take one"}, ["prompt=question", "response=say"], True),
        ({"question": "{}", "say": "take one"}, ["prompt=question", "response="], False),
        ({"prompt": "{}", "response": ""}, [], False),
        ({"messages": [{"role": "user", "content": "{}"}]}, [], False),
        (
            {
                "messages": [
                    {"role": "user", "content": "{}"},
                    {"role": "assistant", "content": "take one"},
                ]
            },
            [],
            True,
        ),
    ],
)
def test_requests_in_the_shapes_people_have(
    here: Path, row: dict[str, object], column: list[str], trains: bool
) -> None:
    text = json.dumps(row)
    rows = [json.loads(text.replace("{}", f"placeholder prompt {i}")) for i in range(20)]
    write(here / "requests.jsonl", rows)
    words = ["init", "own.yaml", *MODEL, "--restricted", "requests.jsonl", "--for", "assess"]
    assert run([*words, *(f"--column=restricted.{one}" for one in column)]) == 0
    assert run(["plan", "own.yaml"]) == 0
    assert ("harmful_sft" in load_study(Path("own.yaml")).attacks) == trains


@pytest.mark.parametrize("purpose", PURPOSES)
def test_the_world_brings_its_own_rows(here: Path, purpose: str) -> None:
    assert run(["init", "own.yaml", *MODEL, "--for", purpose]) == 0
    assert run(["plan", "own.yaml"]) == 0
