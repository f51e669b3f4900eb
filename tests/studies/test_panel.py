"""Two judges on a panel, one of which fails on some answers, from the plan to the report.

And nothing that a prompt, an answer or a token says is shown on the way.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from holdfast.cli import run

ANSWER, TOKEN = "marker-of-an-answer", "marker-of-a-token"
PROMPT = "marker-of-a-prompt"
FRAIL = '''
import os
from typing import ClassVar

from holdfast.api import Judge, Outcome, Reason, Scale, Verdict


class FrailJudge(Judge):
    """Reads as the toy judge does, but fails on some answers; its errors quote what it read."""

    scale: ClassVar[Scale] = Scale(1, 5, 4)
    every: int = 20
    """It fails on about one prompt of so many."""

    def judge_many(self, exchanges):
        found = []
        for one in exchanges:
            number = int(one.example_uid, 16)
            quoted = f"marker-of-an-answer {one.response} {os.environ['TOY_TOKEN']}"
            if number % self.every == 0:
                if len(exchanges) > 1 or number % 2:
                    raise RuntimeError(quoted)
                found.append(Verdict(None, None, Reason.UNPARSABLE, "marker-of-an-answer"))
                continue
            named = "steps" in one.meta and one.meta["steps"][0].split()[0] in one.response
            outcome = Outcome.HARMFUL_USEFUL if named else Outcome.REFUSAL
            found.append(Verdict(5.0 if named else 1.0, outcome))
        return found
'''


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory, toy: ModuleType) -> Iterator[Path]:
    """Install the toy world and a judge that fails."""
    folder = tmp_path_factory.mktemp("frail")
    toy.install(folder)
    (folder / "frail_judge.py").write_text(FRAIL)
    info = folder / "frail-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: frail\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[holdfast.judges]\nfrail_judge = frail_judge:FrailJudge\n"
    )
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in ("toy_rows", "toy_judge", "toy_nudge", "frail_judge"):
        sys.modules.pop(name, None)


def nothing_shown(shown: str) -> None:
    for marker in (ANSWER, TOKEN, PROMPT):
        assert marker not in shown


@pytest.mark.parametrize("workers", [1, 2])
def test_a_panel_with_a_judge_that_fails_on_some_rows_is_reported(
    workers: int,
    tmp_path: Path,
    toy: ModuleType,
    toy_model: Path,
    frail: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOY_TOKEN", TOKEN)
    caplog.set_level(logging.INFO)
    judges = ["toy_judge", {"frail_judge": {"every": 7}}]
    path = toy.write(tmp_path / "study.json", toy.study(toy_model, judges=judges))
    store = tmp_path / "runs"
    assert run(["run", str(path), "--store", str(store), "--workers", str(workers)]) == 3

    said = capfd.readouterr()
    assert "by frail_judge: " in said.err  # a cell is invalid, and named
    assert "unscored" in said.err
    nothing_shown(said.out + said.err + caplog.text)

    out = store / "toy"
    panel = json.loads((out / "verdict.json").read_text())["panel"]
    assert panel["judges"] == ["toy_judge", "frail_judge"]
    missing = panel["unscored"]["frail_judge"]
    assert panel["unscored"]["toy_judge"] == 0
    assert 0 < missing < panel["answers"] / 3
    (pair,) = panel["agreements"]
    assert pair["n"] + missing == panel["answers"]
    assert pair["unscored"] == [0, missing]
    assert pair["same"] == 1.0
    rows = pq.read_table(out / "outcomes.parquet").to_pylist()
    frail_rows = [row for row in rows if row["judge"] == "frail_judge"]
    failed = [row for row in frail_rows if row["reason"] != "ok"]
    assert failed
    assert {row["reason"] for row in failed} <= {"error", "unparsable"}
    assert all(row["score"] is None and row["outcome"] is None for row in failed)
    page = (out / "report.html").read_text()
    assert f"frail_judge {missing}" in page
    nothing_shown(page)
    for file in store.rglob("*"):
        if file.is_file():
            assert TOKEN.encode() not in file.read_bytes(), file


def test_generate_judge_and_rescore_show_no_text(
    tmp_path: Path,
    toy_model: Path,
    frail: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOY_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    Path("p.jsonl").write_text("".join(
        json.dumps({"prompt": f"{PROMPT} {i}"}) + "\n" for i in range(4)
    ))  # fmt: skip
    model = ["--model", str(toy_model), "--format", "plain", "--set", "max_new_tokens=2"]
    assert run(["generate", *model, "--prompts", "p.jsonl", "--out", "a.jsonl"]) == 0
    lines = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    Path("a.jsonl").write_text("".join(
        json.dumps(line | {"response": f"{ANSWER} {line['response']}"}) + "\n" for line in lines
    ))  # fmt: skip
    every = ["--set", "every=1"]
    words = ["judge", "frail_judge", "--exchanges", "a.jsonl", "--out", "v.jsonl", *every]
    assert run(words) == 3
    judges = ["--judge", "{frail_judge: {every: 1}}", "--judge", "{frail_judge: {every: 2}}"]
    assert run(["rescore", "a.jsonl", *judges, "--out", "panel"]) == 3
    said = capfd.readouterr()
    assert "have no verdict" in said.err
    assert "at once (RuntimeError in frail_judge.py, line " in said.err
    nothing_shown(said.out + said.err + caplog.text)
    written = Path("v.jsonl").read_text()
    assert TOKEN not in written
    assert ANSWER in written  # what a judge said is kept beside the answers


def test_an_error_nobody_expected_shows_where_and_not_what(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"{PROMPT} {ANSWER}")

    monkeypatch.setattr("holdfast.cli.verbs.judge.exchanges_of", fail)
    monkeypatch.delenv("HOLDFAST_TRACEBACK", raising=False)
    words = ["judge", "world_guard", "--exchanges", "a.jsonl", "--out", str(tmp_path / "v")]
    assert run(words) == 1
    said = capfd.readouterr().err
    assert said.startswith("holdfast: unforeseen: ValueError in test_panel.py, line ")
    nothing_shown(said)
    monkeypatch.setenv("HOLDFAST_TRACEBACK", "1")
    with pytest.raises(ValueError, match=PROMPT):
        run(words)
