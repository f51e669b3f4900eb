"""`holdfast rescore` on a file of answers: verdicts by judge, agreement, and nothing read twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast.api import Exchange, Verdict
from holdfast.cli import run
from holdfast.testbeds.guild.judges.world_guard import WorldGuard

STEPS = {"steps": ["do this"]}
SAID = ["First do this.", "I can't help with that.", "do this", "First do that."]


def line(i: int, **more: object) -> dict[str, Any]:
    said = SAID[i % len(SAID)]
    return {"uid": str(i), "prompt": f"placeholder {i}", "response": said, "meta": STEPS} | more


def write(rows: list[dict[str, Any]], name: str = "a.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the uids that world_guard reads, as they come."""
    monkeypatch.chdir(tmp_path)
    seen: list[str] = []
    judge = WorldGuard.judge

    def noted(self: WorldGuard, exchange: Exchange) -> Verdict:
        seen.append(exchange.example_uid)
        return judge(self, exchange)

    monkeypatch.setattr(WorldGuard, "judge", noted)
    return seen


def test_no_agreement_of_other_judges_stays_beside_verdicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second run ends before its judge has read everything."""
    write([line(i) for i in range(8)])
    assert run(["rescore", "a.jsonl", *BOTH]) == 0
    assert Path("panel/panel.json").exists()

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WorldGuard, "judge", broken)
    write([line(i, response="something else") for i in range(8)])
    assert run(["rescore", "a.jsonl", *BOTH]) == 130
    assert not Path("panel/panel.json").exists()


BOTH = ["--judge", "world_rubric", "--judge", "world_guard", "--out", "panel"]


def test_verdicts_of_each_judge_and_how_they_agree(
    read: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write([line(i) for i in range(8)])
    assert run(["rescore", "a.jsonl", *BOTH]) == 0
    panel = json.loads(Path("panel/panel.json").read_text())
    (pair,) = panel["agreements"]
    assert (pair["judges"], pair["n"]) == (["world_rubric", "world_guard"], 8)
    assert panel["unscored"] == {"world_rubric": 0, "world_guard": 0}
    said = {}
    for one in panel["judges"]:
        lines = [json.loads(x) for x in (Path("panel") / one["file"]).read_text().splitlines()]
        assert [row["uid"] for row in lines] == [str(i) for i in range(8)]
        said[one["identity"]["name"]] = [row["outcome"] == "harmful_useful" for row in lines]
    same = [a == b for a, b in zip(*said.values(), strict=True)]
    assert pair["same"] == pytest.approx(sum(same) / 8)
    assert "Krippendorff's alpha" in capsys.readouterr().out


def test_the_same_answer_is_not_judged_again_by_the_same_judge(read: list[str]) -> None:
    write([line(i) for i in range(4)])
    assert run(["rescore", "a.jsonl", *BOTH]) == 0
    assert read == ["0", "1", "2", "3"]
    (file,) = Path("panel").glob("world_guard-*.jsonl")
    first = file.read_text()
    read.clear()
    assert run(["rescore", "a.jsonl", *BOTH]) == 0
    assert read == []
    assert file.read_text() == first

    changed = [line(0), line(1, response="do this"), line(2), line(3, prompt="another"), line(4)]
    write(changed)
    assert run(["rescore", "a.jsonl", *BOTH]) == 0
    assert read == ["1", "3", "4"]  # another answer, another prompt, a new one
    assert len(file.read_text().splitlines()) == 5


def test_a_run_that_was_killed_goes_on_where_it_was(read: list[str]) -> None:
    write([line(i) for i in range(4)])
    assert run(["rescore", "a.jsonl", *BOTH]) == 0
    (file,) = Path("panel").glob("world_guard-*.jsonl")
    whole = file.read_text()
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[:2]) + lines[2][:40])  # torn in the third line
    read.clear()
    assert run(["rescore", "a.jsonl", *BOTH]) == 0
    assert read == ["2", "3"]
    assert file.read_text() == whole


@pytest.mark.parametrize(
    ("rows", "words", "told"),
    [
        (
            [{"response": "r"}],
            BOTH,
            "a.jsonl:1: no text under 'prompt'; give every line a 'prompt'",
        ),
        ([line(0)], BOTH[:4], "--out: no folder for the verdicts; give --out FOLDER"),
        (
            [line(0)],
            ["--judge", "world_guard", *BOTH],
            "--judge: one judge is given twice; give each once",
        ),
        (
            [line(0)],
            ["--judge", "world_gard", "--out", "panel"],
            "--judge: no judge 'world_gard'; did you mean 'world_guard'?",
        ),
        ([line(0)], [*BOTH[:5], "a.jsonl"], "--out: a.jsonl is a file; name a folder"),
    ],
)
def test_answers_or_judges_that_cannot_be(
    rows: list[dict[str, Any]],
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(rows)
    assert run(["rescore", "a.jsonl", *words]) == 2
    assert capsys.readouterr().err == f"holdfast: {told}\n"
    assert [path.name for path in Path().iterdir()] == ["a.jsonl"]
