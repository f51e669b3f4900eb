"""Local files as a source: every kind and shape of file, one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.api.registry import make
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.sources.local import Local
from holdfast.errors import ConfigError, DataError

ROWS = [{"q": "how do I fold a map?", "a": "in three"}, {"q": "how do I tie it?", "a": "twice"}]


def write(folder: Path, ending: str) -> Path:
    path = folder / f"rows.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif ending == "csv":
        path.write_text("q,a\n" + "".join(f"{row['q']},{row['a']}\n" for row in ROWS))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    source = Local(path=str(write(tmp_path, ending)), role="benign", prompt="q", response="a")
    rows = source.examples()
    assert [(row.prompt, row.response) for row in rows] == [(r["q"], r["a"]) for r in ROWS]
    assert {row.role for row in rows} == {Role.BENIGN}
    assert all(row.side is None for row in rows)


def test_a_declared_side_holds_for_the_whole_file(tmp_path: Path) -> None:
    path = str(write(tmp_path, "jsonl"))
    source = Local(path=path, role="harmful", prompt="q", response=None, side="evaluator")
    assert {row.side for row in source.examples()} == {Side.EVALUATOR}
    assert {row.response for row in source.examples()} == {None}


def test_the_content_hash_follows_the_bytes(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    source = Local(path=str(path), role="benign", prompt="q", response="a")
    before = source.content()
    path.write_text(path.read_text() + json.dumps({"q": "x", "a": "y"}) + "\n")
    assert source.content() != before


@pytest.mark.parametrize(
    ("name", "text", "fields", "line"),
    [
        ("no.jsonl", None, {}, "no.jsonl: no such file; check the path"),
        (
            "a.txt",
            "x",
            {},
            "a.txt: unknown kind of file '.txt'; use .jsonl, .ndjson, .json, .csv, .tsv or "
            ".parquet",
        ),
        ("a.jsonl", "", {}, "a.jsonl: no rows; give a file that has some"),
        ("a.jsonl", "[1]\n", {}, "a.jsonl:1: not a JSON object; write one object a line"),
        (
            "a.jsonl",
            '{"prompt": "x", "answer": "y"}\n',
            {},
            "a.jsonl:1: no column 'response'; map it to one of: prompt, answer",
        ),
        (
            "a.jsonl",
            '{"prompt": "  ", "response": "y"}\n',
            {},
            "a.jsonl:1: column 'prompt' is empty or no text; fill it or drop the row",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    text: str | None,
    fields: dict[str, str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(DataError) as caught:
        Local(path=name, role="benign", **fields).examples()
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"role": "benign", "response": None},
            "a.jsonl: role benign needs a response; name its column in `response`",
        ),
        (
            {"role": "benign", "purpose": "exact"},
            "a.jsonl: purpose 'exact' of no evaluation set; name one in `evaluation_set`",
        ),
        (
            {"role": "benign", "evaluation_set": "x", "purpose": "harm"},
            "a.jsonl: role benign cannot be asked for 'harm'; restricted prompts (refusal, "
            "harmful) measure harm, the others never do",
        ),
        (
            {"role": "harmful", "evaluation_set": "x", "purpose": "refused"},
            "a.jsonl: role harmful cannot be asked for 'refused'; restricted prompts (refusal, "
            "harmful) measure harm, the others never do",
        ),
        (
            {"role": "task", "evaluation_set": "x", "response": None},
            "a.jsonl: purpose 'task' needs a known answer; name its column in `answer` or "
            "`response`",
        ),
        (
            {"role": "benign", "evaluation_set": "x", "response": None, "purpose": "exact"},
            "a.jsonl: purpose 'exact' needs a known answer; name its column in `answer` or "
            "`response`",
        ),
    ],
)
def test_rows_that_could_serve_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"prompt": "x", "response": "y"}\n')
    with pytest.raises(DataError) as caught:
        Local(path="a.jsonl", **fields).examples()
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("fields", "purpose", "answers"),
    [
        ({"role": "harmful", "response": None}, "harm", [None, None]),
        ({"role": "refusal", "response": "a"}, "harm", [None, None]),
        ({"role": "benign", "response": "a"}, "exact", ["in three", "twice"]),
        ({"role": "benign", "response": None, "answer": "a"}, "exact", ["in three", "twice"]),
        ({"role": "benign", "response": None}, "refused", [None, None]),
        ({"role": "task", "response": "a"}, "task", ["in three", "twice"]),
        (
            {"role": "benign", "response": None, "purpose": "over_refusal"},
            "over_refusal",
            [None, None],
        ),
    ],
)
def test_what_a_set_is_for_follows_from_the_role(
    tmp_path: Path, fields: dict[str, Any], purpose: str, answers: list[str | None]
) -> None:
    path = str(write(tmp_path, "jsonl"))
    source = Local(path=path, prompt="q", evaluation_set="my_own", **fields)
    pool = Pool.of([source.with_(side="evaluator")])
    (declared,) = pool.sets.values()
    assert (declared.name, declared.purpose, declared.label) == ("my_own", purpose, "my own")
    rows = {row.prompt: row for row in pool.evaluation("my_own", Side.EVALUATOR, None, 0)}
    assert [rows[one["q"]].known.answer for one in ROWS] == answers


def test_a_file_of_no_set_declares_none(tmp_path: Path) -> None:
    source = Local(path=str(write(tmp_path, "jsonl")), role="benign", prompt="q", response="a")
    assert source.sets() == ()


def test_the_old_name_leads_to_the_new_one() -> None:
    with pytest.raises(ConfigError) as caught:
        make("source", {"file": {"path": "a.jsonl", "role": "benign"}}, "study.sources[0]")
    assert str(caught.value) == "study.sources[0]: no source 'file'; did you mean 'local'?"


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"role": "benign", "match": "contained"},
            "{path}: `match` of no evaluation set; name one in `evaluation_set`",
        ),
        (
            {"role": "harmful", "match": "contained", "evaluation_set": "x"},
            "{path}: purpose 'harm' compares no answer, so `match` says nothing; leave it out, or "
            "set the purpose",
        ),
    ],
)
def test_a_match_without_an_answer_is_one_line(
    fields: dict[str, Any], line: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "placeholder prompt 1", "response": "placeholder"}\n')
    with pytest.raises(DataError) as caught:
        Local(path=str(path), **fields).examples()
    assert str(caught.value) == line.format(path=path)
