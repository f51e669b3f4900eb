"""`holdfast calibrate`: a judge beside people's labels, from a file, a source or a package."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.api import Exchange, Labelled, Outcome, Reason, Verdict
from holdfast.api.registry import make
from holdfast.cli import run
from holdfast.stats.calibration import calibration
from holdfast.testbeds import guild
from holdfast.testbeds.guild.judges.world_guard import WorldGuard

STEPS = {"steps": ["do this"]}
HARMFUL, HARMLESS = "First do this.", "I can't help with that."


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows(*kinds: tuple[str, object], **more: object) -> list[dict[str, Any]]:
    """Give labelled lines: (answer, label) each."""
    return [
        {"prompt": f"placeholder prompt {i}", "response": said, "label": label, "meta": STEPS}
        | more
        for i, (said, label) in enumerate(kinds)
    ]


def test_precision_and_recall_counted_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    # 3 hits, 1 false alarm, 2 misses, 4 passes; the oracle cannot judge the two without steps
    kinds = [(HARMFUL, True)] * 3 + [(HARMFUL, "safe")] + [(HARMLESS, "unsafe")] * 2
    lines = rows(*kinds, *[(HARMLESS, False)] * 4)
    write("l.jsonl", lines)
    assert run(["calibrate", "world_guard", "--on", "l.jsonl", "--out", "c.json"]) == 0
    told = json.loads(Path("c.json").read_text())
    counts = [told[name] for name in ("hits", "false_alarms", "misses", "passes", "n")]
    assert counts == [3, 1, 2, 4, 10]
    assert told["precision"]["value"] == pytest.approx(0.75)
    assert told["recall"]["value"] == pytest.approx(0.6)
    assert told["accuracy"]["value"] == pytest.approx(0.7)
    for name in ("precision", "recall", "accuracy"):
        assert told[name]["low"] < told[name]["value"] < told[name]["high"]
    assert told["auroc"]["value"] == pytest.approx(0.7)  # 3/5 above 4/5, ties half
    assert told["judge"]["name"] == "world_guard"
    shown = capsys.readouterr().out
    assert "placeholder" not in shown
    assert "precision" in shown

    write("l.jsonl", [*lines, *rows(*[("word", True)] * 2, meta={})])
    assert run(["calibrate", "world_guard", "--on", "l.jsonl"]) == 3
    err = capsys.readouterr().err
    assert err == (
        "holdfast: judge 'world_guard': 2 of 12 answers have no verdict (2 "
        "refused_to_judge); they are in no figure:"
        " mend the judge and run again\n"
    )


def test_answers_without_a_verdict_are_in_no_figure() -> None:
    def pair(i: int, harmful: bool) -> Labelled:
        return Labelled(Exchange(str(i), None, "p", "", "r", "stop", {}), harmful)

    yes, no = Verdict(5.0, Outcome.HARMFUL_USEFUL), Verdict(1.0, Outcome.REFUSAL)
    none = Verdict(None, None, Reason.UNPARSABLE)
    pairs = [pair(i, i < 3) for i in range(6)]
    found = calibration(pairs, [yes, yes, none, no, no, none])
    assert (found.n, found.unscored, found.scored) == (4, (1, 1), 4)
    assert (found.precision.value, found.recall.value, found.auroc.value) == (1.0, 1.0, 1.0)
    about = calibration(pairs, [yes, yes, none, no, no, none], about="refusal")
    assert (about.hits, about.false_alarms, about.scored) == (0, 2, 0)


def test_a_file_inside_an_installed_package_is_read_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "site" / "labelled_pairs"
    (package / "evals").mkdir(parents=True)
    # Importing it would fail: it is found, and not run.
    (package / "__init__.py").write_text("raise ImportError('not to be imported')\n")
    (package / "evals" / "harm.csv").write_text(
        "# dataset_version=1.0,,\nobjective,answer,score\n"
        f"placeholder 1,{HARMFUL},0.75\nplaceholder 2,{HARMLESS},0.25\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    words = ["calibrate", "world_guard", "--on", "package:labelled_pairs/evals/harm.csv"]
    columns = ["prompt=objective", "response=answer", "label=score"]
    words += [part for one in columns for part in ("--column", one)]
    assert run([*words, "--harmful-from", "0.5", "--out", "c.json"]) == 3  # no steps are known
    told = json.loads(Path("c.json").read_text())
    assert told["unscored"] == [1, 1]
    assert "labelled_pairs" not in sys.modules
    capsys.readouterr()


@pytest.mark.parametrize("name", ["beavertails", "aegis2", "wildguardmix"])
def test_published_sources_give_the_labels_of_their_test_split(name: str, root: Path) -> None:
    folder = root / "tests/data/published" / name
    source: Any = make("source", {name: {"folder": str(folder), "rows": "any"}}, "sources")
    pairs = source.labelled()
    file = folder / ("test.json" if name == "aegis2" else "test.jsonl")
    text = file.read_text()
    given = json.loads(text) if name == "aegis2" else [json.loads(x) for x in text.splitlines()]
    label = {
        "beavertails": lambda row: not row["is_safe"],
        "aegis2": lambda row: {"safe": False, "unsafe": True}.get(row["response_label"]),
        "wildguardmix": lambda row: {"unharmful": False, "harmful": True}.get(
            row["response_harm_label"]
        ),
    }[name]
    wanted = [
        (row["prompt"], label(row))
        for row in given
        if row["response"] and label(row) is not None and row["prompt"] != "REDACTED"
    ]
    assert wanted
    assert [(one.exchange.prompt, one.harmful) for one in pairs] == wanted


@pytest.mark.parametrize(
    ("lines", "more", "told"),
    [
        (
            [{"prompt": "p", "response": "r"}],
            [],
            "l.jsonl:1: no column 'label'; map it to one of: prompt, response (--column"
            " label=NAME)",
        ),
        (
            [{"prompt": "p", "response": "r", "label": "secret words"}],
            [],
            "l.jsonl:1: column 'label' holds no label; write true or false, or give"
            " --harmful-from where labels are numbers",
        ),
        (
            [{"prompt": "p", "response": "r", "label": "words"}],
            ["--harmful-from", "1"],
            "l.jsonl:1: column 'label' holds no number; fill it, or leave out --harmful-from",
        ),
        (
            rows((HARMFUL, True), (HARMFUL, True)),
            [],
            "l.jsonl: all 2 labels are true; give answers of both kinds",
        ),
        (
            rows((HARMFUL, True), (HARMLESS, False)),
            ["--column", "answer=x"],
            "--column: got 'answer=x'; write prompt, response or label=NAME",
        ),
        (
            rows((HARMFUL, True), (HARMLESS, False)),
            ["--about", "harms"],
            "--about: got 'harms'; did you mean 'harm'?",
        ),
        (
            rows((HARMFUL, True), (HARMLESS, False)),
            ["--out", "."],
            "--out: . is a folder; name a file",
        ),
    ],
)
def test_a_calibration_that_cannot_be(
    lines: list[dict[str, Any]],
    more: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("l.jsonl", lines)
    assert run(["calibrate", "world_guard", "--on", "l.jsonl", *more]) == 2
    assert capsys.readouterr().err == f"holdfast: {told}\n"
    assert [path.name for path in Path().iterdir()] == ["l.jsonl"]


def test_a_judge_is_held_against_labels_of_what_it_tells(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("l.jsonl", rows((HARMFUL, True), ("I cannot help with that.", False)))
    words = ["calibrate", "refusal_keywords", "--on", "l.jsonl"]
    assert run(words) == 2
    assert capsys.readouterr().err == (
        "holdfast: judge: refusal_keywords says nothing about harm; add --about refusal where "
        "labels say that, or calibrate another judge\n"
    )
    # As labels of refusals both are wrong: it finds the one that people call none.
    more = ["--set", "otherwise=not_refused"]
    assert run([*words, *more, "--about", "refusal"]) == 0
    assert "precision        0.0\u00a0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("on", "told"),
    [
        (
            "world",
            "source 'world': has no labelled answers; give a file that has, or a source such as"
            " beavertails",
        ),
        (
            "package:no_such_package/x.csv",
            "package:no_such_package/x.csv: no package 'no_such_package' is installed; install"
            " it, or give the file's own path",
        ),
        ("gone.jsonl", "gone.jsonl: no such file; check the path"),
    ],
)
def test_labels_that_are_not_there(on: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", "world_guard", "--on", on]) == 2
    assert capsys.readouterr().err == f"holdfast: {told}\n"


@pytest.mark.parametrize("verb", ["calibrate", "judge", "rescore", "study"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("l.jsonl", rows((HARMFUL, True), (HARMLESS, False)))
    words = {
        "calibrate": ["calibrate", "world_guard", "--on", "l.jsonl"],
        "judge": ["judge", "world_guard", "--exchanges", "l.jsonl"],
        "rescore": ["rescore", "l.jsonl", "--judge", "world_guard"],
        "study": ["run", str(guild.DEMO), "--store", "s"],
    }

    def read(*_: object) -> None:
        pytest.fail("it reads")

    monkeypatch.setattr(WorldGuard, "judge", read)
    assert run([*words[verb], "--out", "/proc/c.json"]) == 2
    assert capsys.readouterr().err == (
        "holdfast: /proc/c.json: cannot be written (/proc takes no files); check the folder and "
        "its rights\n"
    )
    assert not list(Path().glob("s/*/*"))
