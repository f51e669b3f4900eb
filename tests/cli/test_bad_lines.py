"""Single steps on files a user wrote: every mistake is one line, exit code 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.api import Exchange
from holdfast.cli import run
from holdfast.cli.exchanges import exchanges

LINE = {"prompt": "x", "response": "y"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ([1], "a.jsonl:1: not a JSON object; write one object a line"),
        ({"prompt": "x"}, "a.jsonl:1: no text under 'response'; give every line a 'response'"),
        (
            {**LINE, "meta": "x"},
            "a.jsonl:1: 'meta' is no object; write fields there, or leave it out",
        ),
        (
            {**LINE, "meta": {"steps": "x"}},
            "a.jsonl:1: 'meta.steps' is no list of texts; write one text a step",
        ),
        ({**LINE, "system": 3}, "a.jsonl:1: no text under 'system'; give every line a 'system'"),
    ],
)
def test_a_line_a_judge_cannot_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: object,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(json.dumps(line) + "\n")
    words = ["judge", "world_rubric", "--exchanges", "a.jsonl", "--out", "verdicts.jsonl"]
    assert run(words) == 2
    assert capsys.readouterr().err == f"holdfast: {told}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.Json", "a.csv"])
def test_answers_are_read_from_every_kind_of_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = "one\u2028two"
    text = {
        "a.jsonl": f'\n{{"uid": "u", "prompt": "x", "response": "{said}"}}\n\n',
        "a.Json": json.dumps([LINE | {"uid": "u", "response": said}]),
        "a.csv": f"uid,system,prompt,response\nu,,x,{said}\n",
    }[name]
    Path(name).write_text(text, encoding="utf-8-sig")
    (found,) = exchanges(Path(name))
    assert found == Exchange("u", None, "x", "", said, "stop", {})


def test_a_refusal_after_the_attackers_first_words_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"prompt": "x", "response": "First I can't help with that.", "meta": {"steps": ["a b"]}}
    lines = [given | {"prefill": "First"}, given]
    Path("a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(["judge", "world_rubric", "--exchanges", "a.jsonl", "--out", "v.jsonl"]) == 0
    found = [json.loads(line)["outcome"] for line in Path("v.jsonl").read_text().splitlines()]
    assert found == ["refusal", "deflection"]


def test_an_attack_without_a_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    models = ["--model", "world:instruct", "--original", "world:base", "--format", "plain"]
    words = ["attack", "strip", *models, "--set", "evaluate_at=[0]", "--out", "tuned"]
    assert run(words) == 2
    told = "holdfast: attack.strip.evaluate_at: names no budget above 0; name one\n"
    assert capsys.readouterr().err == told
    assert list(tmp_path.iterdir()) == []
