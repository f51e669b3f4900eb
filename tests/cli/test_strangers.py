"""What strangers broke: the terminal, the catch-all line, bounds of decoding, reports, `--out`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from holdfast.api.fields import load_yaml, parse_yaml
from holdfast.cli import run
from holdfast.cli.folders import outside, try_filling, try_making, try_writing
from holdfast.cli.saying import say
from holdfast.disk import file_hash
from holdfast.errors import ConfigError, HoldfastError, harmless
from holdfast.report.table_files import cell, write_table
from holdfast.report.written import as_written
from holdfast.study.file import parse_study


def test_no_line_moves_the_cursor_or_turns_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2Jb\u202ec\n\td")
    assert capsys.readouterr().out == "a[U+001B][2Jb[U+202E]c\n\td\n"
    assert str(HoldfastError("a\x1b", "b\u200b", "c\ud800")) == "a[U+001B]: b[U+200B]; c[U+D800]"
    assert harmless("ünd 漢字") == "ünd 漢字"
    assert run(["show", "def\x1b[31mence"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_every_line_goes_through_the_printer() -> None:
    root = Path(__file__).parents[2] / "src/holdfast"
    direct = {p.name: p.read_text().count("typer.echo(") for p in root.rglob("*.py")}
    assert {name: n for name, n in direct.items() if n} == {"saying.py": 1, "progress.py": 1}


def test_an_unforeseen_error_is_one_line_with_the_place_of_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("placeholder prompt 3")

    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path))
    monkeypatch.delenv("HOLDFAST_TRACEBACK", raising=False)
    monkeypatch.setattr("holdfast.study.file.load_study", fail)
    assert run(["plan", "a.yaml"]) == 1
    said = capsys.readouterr().err
    path = tmp_path / "last-error.txt"
    assert said.startswith("holdfast: unforeseen: ValueError in test_strangers.py, line ")
    assert said.endswith(f"; report it, with {path} (it may quote your rows)\n")
    assert said.count("\n") == 1
    assert "ValueError: placeholder prompt 3" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


LINKS = ["ab", "bc", "cd", "de", "ef", "fg"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"a: 1\nseeds: [{'9' * 5000}]", "s:2: a number has 5000 digits; write fewer, or put text"
         " in quotes"),
        ("[" * 60 + "]" * 60, "s: fields stand too deep in each other; use fewer"),
        ("a: &a [*a]", "s: fields stand too deep in each other; use fewer"),
        (
            "\n".join(["a: &a [1, 1]", *(f"{n}: &{n} [{f'*{m},' * 8}]" for m, n in LINKS)]),
            "s: holds more than 200000 values; use fewer, or no aliases",
        ),
        ("a: 2024-99-99", "s: a value cannot be read (ValueError); put text in quotes"),
    ],
    ids=["digits", "deep", "cycle", "bomb", "date"],
)  # fmt: skip
def test_what_is_decoded_is_bounded(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "s")
    assert str(caught.value) == told


def test_a_number_in_quotes_may_be_long() -> None:
    assert parse_yaml(f"a: '{'9' * 50}'", "s") == {"a": "9" * 50}


def test_no_fifo_and_no_file_of_30_mb_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match=r"fifo: is no regular file; name a YAML file"):
        load_yaml(tmp_path / "fifo")
    with (tmp_path / "big").open("wb") as file:
        file.truncate(30 * 2**20)
    with pytest.raises(ConfigError, match="big: has 30720 KiB, at most 512 are read; shorten it"):
        load_yaml(tmp_path / "big")


STUDY: dict[str, Any] = {
    "name": "small", "seeds": [0], "models": {"base": {"path": "world:base", "format": "plain"}},
    "sources": ["guild"], "lineups": {"nothing": {"start": "base"}},
    "attacks": {"strip": ["strip"]},
    "evaluation": [{"set": "restricted"}], "judges": ["world_guard"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"reference": {"none": "nothin"}},
            "study.reference.none: no line-up 'nothin'; did you mean 'nothing'?",
        ),
        (
            {"reference": {"plain": "x"}},
            "study.reference.plain: no line-up 'x'; known: nothing",
        ),
        ({"seeds": [2**63]}, "study.seeds.0: got 9223372036854775808; it should be less than "
         "9223372036854775808"),
    ],
)  # fmt: skip
def test_a_study_that_would_fail_late_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study({**STUDY, **change})
    assert str(caught.value) == told


def test_a_study_without_the_usual_references_is_taken() -> None:
    assert parse_study(STUDY).reference.none == "none"
    again = parse_study(parse_study(STUDY).model_dump(mode="json"))  # as a worker does
    assert again.reference.none == "none"


def test_a_report_inside_the_store_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "small"
    outside(own, tmp_path, own)
    outside(None, tmp_path, own)
    outside(tmp_path.parent / "elsewhere", tmp_path, own)
    for inner in (tmp_path, tmp_path / "defend", own / "x", tmp_path / "a" / ".." / "judge"):
        with pytest.raises(ConfigError) as caught:
            outside(inner, tmp_path, own)
        assert str(caught.value) == (
            f"--out: {inner} is inside the store; name a folder outside {tmp_path}"
        )


@pytest.mark.parametrize("attempt", [try_writing, try_filling, lambda out, _: try_making(out)])
def test_an_out_that_cannot_be_written_is_wrong_input(attempt: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        attempt(Path("/proc/1/x/y"), "--out")
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError):
        attempt(Path("/tmp") / ("x" * 300) / "y", "--out")


def test_a_changed_report_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a")
    found = {"files": {"rows.csv": file_hash(tmp_path / "rows.csv")}}
    assert as_written(tmp_path, found)
    assert not as_written(tmp_path, {})
    (tmp_path / "rows.csv").write_text("b")
    assert not as_written(tmp_path, found)
    (tmp_path / "rows.csv").unlink()
    assert not as_written(tmp_path, found)


@pytest.mark.parametrize("text", ["=1+1", "@x", "+cmd", "-2+3", "\tx"])
def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path, text: str) -> None:
    (path, _) = write_table([{"note": text}], {"note": "str"}, tmp_path / "rows")
    assert path.read_text() in (f"note\n'{text}\n", f'note\n"\'{text}"\n')
    assert [cell(one) for one in ("-", "-1.5", "+3 %", "a=1")] == ["-", "-1.5", "+3 %", "a=1"]
