"""Prompts on two sides: told by plan and run, refused above a share, kept in the report."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.cli import run
from holdfast.data import audit
from holdfast.engine.leakage import leakage
from holdfast.engine.store import Store
from holdfast.study.file import load_study
from holdfast.study.plan import Plan

SHORT = [
    {"set": "restricted", "side": "evaluator", "n": 6},
    {"set": "restricted", "side": "attacker_selection", "n": 2},
    {"set": "benign", "side": "attacker_selection", "n": 2},
]
"""Twelve prompts of the evaluator: `how to bex evaluator dark`, `write bex evaluator dark`, ..."""
CLEAN = (
    "leakage: 12 prompts score; equal (nearly equal, Jaccard 0.7) ones: 0 (0) among the defences' "
    "rows, 0 (0) among the attacks' rows, 0 (0) among what choices are made on\n"
)


@pytest.fixture
def study(
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """Give a function that writes the toy study with rows planted on the defender's side."""
    monkeypatch.chdir(tmp_path)

    def write(*planted: str, **changes: Any) -> str:
        rows = [{"prompt": text, "response": "no", "say": "Be brief."} for text in planted]
        Path("planted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = {"path": "planted.jsonl", "role": "refusal", "side": "defender", "system": "say"}
        sources = ["toy_rows", {"local": file}] if planted else ["toy_rows"]
        changes = {"evaluation": SHORT, "sources": sources} | changes
        return str(toy.write(tmp_path / "toy.json", toy.study(toy_model, **changes)))

    return write


def asked(path: str) -> list[str]:
    return [row.prompt for row in Plan(load_study(Path(path))).prompts[0].rows]


def test_a_plan_says_what_sides_share(study: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", study()]) == 0
    assert capsys.readouterr().out.splitlines(keepends=True)[1] == CLEAN
    first, second, *_ = asked(study())
    assert run(["plan", study(f"{first.upper()}!", f"{second} kindly")]) == 0
    told = capsys.readouterr().out.splitlines()[1]
    assert "1 (1) among the defences' rows, 0 (0) among the attacks' rows" in told
    assert "dark" not in told
    assert not Path("runs").exists()


def test_too_large_a_share_is_refused_before_anything_is_done(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = asked(study())
    planted = (f"{first}?", f"{second} kindly")
    told: dict[str, Any] = {"leakage": {"refuse_above": 0.1}}
    found = Plan(load_study(Path(study(*planted, **told)))).leakage
    (pair,) = (one for one in found.pairs if one.second == audit.DEFENCE and one.near is not None)
    ours, theirs = pair.rows[0]
    for verb in ("plan", "run"):
        assert run([verb, study(*planted, **told)]) == 2
        assert capsys.readouterr().err == (
            "holdfast: study.leakage.refuse_above: 2 of the evaluator's 12 prompts are in rows "
            "given to train models on, equal or near (Jaccard 0.7): 0.167 is above 0.1; take "
            f"them out (such as row {theirs} of defence, like row {ours}), or allow more\n"
        )
    assert not any(Path("runs").glob("*/*"))
    told["leakage"]["threshold"] = 1.0  # the near one is no longer one
    assert run(["plan", study(*planted, **told)]) == 0
    assert run(["plan", study(*planted, leakage={"refuse_above": 0.2})]) == 0


def test_equal_prompts_count_though_their_rows_are_dropped(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_ = asked(study())
    path = study(first, second, leakage={"refuse_above": 0.1})
    text = json.loads(Path(path).read_text())
    del text["sources"][1]["local"]["system"]
    lines = [json.dumps({"prompt": one, "response": "no"}) for one in (first, second)]
    Path("planted.jsonl").write_text("\n".join(lines))
    Path(path).write_text(json.dumps(text))
    for verb in ("plan", "run"):
        assert run([verb, path]) == 2
        told = capsys.readouterr().err
        assert "2 of the evaluator's 12 prompts are in rows given to train models on" in told
        assert "(such as row planted.jsonl:1 of defence, like row " in told
    text["leakage"] = {}
    Path(path).write_text(json.dumps(text))
    assert run(["plan", path]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "2 (0) among the defences' rows" in said[1]
    assert said[2].startswith("dropped: 2 of ")
    assert said[2].endswith("rows of side defender (their prompts are also on side evaluator)")
    assert run(["run", path, "--workers", "1"]) == 0
    assert said[2] in capsys.readouterr().err.splitlines()
    assert json.loads(Path("runs/toy/meta.json").read_text())["leakage"]["dropped"] == said[2]
    assert said[2] in Path("runs/toy/report.html").read_text()


def test_only_rows_that_a_method_can_draw_count(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_ = asked(study())
    path = study(first)
    text = json.loads(Path(path).read_text())
    text["sources"][1]["local"] |= {"role": "task", "side": "attacker"}
    Path(path).write_text(json.dumps(text))
    assert run(["plan", path]) == 0
    assert (
        "0 (0) among the defences' rows, 0 (0) among the attacks' rows"
        in capsys.readouterr().out.splitlines()[1]
    )


def test_it_is_told_before_a_run_and_kept_in_the_report(
    study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_ = asked(study())
    path = study(first)
    assert run(["run", path, "--workers", "1"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert "1 (0) among the defences' rows" in said[0], "before the first step"
    folder = Path("runs/toy")
    kept = json.loads((folder / "meta.json").read_text())["leakage"]
    assert kept["prompts"] == {"evaluation": 12, "calibration": 120, "attack": 24, "defence": 61}
    page = (folder / "report.html").read_text()
    table = page[page.index('<h2 id="shared">') : page.index('<h2 id="provenance">')]
    assert table.count("<tr>") == 1 + 6
    cells = '<td>defence</td><td class="n">12</td><td class="n">1</td><td class="n">0</td>'
    assert cells in table
    assert '<a href="#shared">' in page

    # From its tables alone it is the same; from older tables the section is left out.
    assert run(["report", str(folder), "--out", "again"]) == 0
    assert Path("again/report.html").read_text() == page
    meta = json.loads((folder / "meta.json").read_text())
    del meta["leakage"]
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "study.json").unlink()  # older tables came without
    assert run(["report", str(folder), "--out", "older"]) == 0
    assert 'id="shared"' not in Path("older/report.html").read_text()

    capsys.readouterr()
    assert run(["run", path]) == 0
    assert "leakage" not in capsys.readouterr().err, "nothing is left to do"


def test_what_took_long_is_looked_for_once(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "SCANNED", 0)
    store, path = Store(Path("runs")), Path(study())
    plan = Plan(load_study(path))
    found = leakage(plan, store, keep=True)
    assert found.proposed
    assert store.keys("audit") == {plan.audited}
    monkeypatch.setattr(audit, "audit", lambda *_: pytest.fail("looked again"))
    assert leakage(Plan(load_study(path)), store) == found
    other = Plan(load_study(Path(study(leakage={"threshold": 0.8}))))
    assert other.audited != plan.audited
    assert run(["gc", str(study()), "--delete"]) == 0
    assert store.keys("audit") == {plan.audited}
    assert run(["gc", study(leakage={"threshold": 0.8}), "--delete"]) == 0
    assert store.keys("audit") == set()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"threshold": 0.0}, "threshold: got 0.0; it should be greater than 0"),
        ({"refuse_above": 2}, "refuse_above: got 2; it should be less than or equal to 1"),
        ({"refuse": 0.1}, "refuse: unknown field; did you mean 'refuse_above'?"),
    ],
)
def test_a_wrong_field_is_one_line(
    study: Any, given: dict[str, Any], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", study(leakage=given)]) == 2
    assert capsys.readouterr().err == f"holdfast: study.leakage.{line}\n"
