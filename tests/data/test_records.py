"""The reader of rows from outside: what is in a file comes out, or one line says why not."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.data.records import content_of, is_rows, read_text, records
from holdfast.errors import DataError

BOM = b"\xef\xbb\xbf"
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))


def read(path: Path) -> list[tuple[int, dict[str, object]]]:
    return list(records(path))


@given(st.lists(TEXT, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_any_text_in_json_lines_comes_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], ascii_only: bool, dos: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    end = "\r\n" if dos else "\n"
    lines = [json.dumps({"prompt": text}, ensure_ascii=ascii_only) + end for text in texts]
    path.write_bytes("".join(lines).encode())
    assert read(path) == [(i, {"prompt": text}) for i, text in enumerate(texts, start=1)]


@given(st.lists(TEXT, min_size=1, max_size=5), st.sampled_from([",", "\t"]))
def test_any_text_in_a_table_comes_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], delimiter: str
) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows.{'csv' if delimiter == ',' else 'tsv'}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("prompt", "response"), *((text, text[::-1]) for text in texts)])
    assert [row for _, row in read(path)] == [
        {"prompt": text, "response": text[::-1]} for text in texts
    ]


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a.jsonl", BOM + b'{"p": "x"}\n{"p": "y"}\n'),
        ("a.JSONL", b'{"p": "x"}\r\n\r\n   \n{"p": "y"}'),
        ("a.ndjson", b'{"p": "x"}\n{"p": "y"}\n'),
        ("a.json", BOM + b'[{"p": "x"}, {"p": "y"}]'),
        ("a.json", b'{"version": 1, "data": [{"p": "x"}, {"p": "y"}]}'),
        ("a.CSV", BOM + b"p\nx\n\ny\n"),
        ("a.csv", b"p\r\nx\r\ny\r\n"),
        ("a.csv", b"p\rx\ry"),
        ("a.tsv", b"p\nx\ny\n"),
    ],
)
def test_each_kind_of_file_is_read_as_people_write_it(
    tmp_path: Path, name: str, raw: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(raw)
    assert [row for _, row in read(path)] == [{"p": "x"}, {"p": "y"}]
    assert is_rows(name)


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\ufeff"])
def test_what_only_python_calls_a_line_end_stays_in_the_text(tmp_path: Path, char: str) -> None:
    text = f"one{char}two"
    (tmp_path / "a.csv").write_bytes(f"p\n{text}\n".encode())
    (tmp_path / "a.tsv").write_bytes(f"p\tq\n{text}\tx\n".encode())
    (tmp_path / "a.jsonl").write_bytes(json.dumps({"p": text}).encode())
    assert read(tmp_path / "a.csv") == [(2, {"p": text})]
    assert read(tmp_path / "a.tsv") == [(2, {"p": text, "q": "x"})]
    assert read(tmp_path / "a.jsonl") == [(1, {"p": text})]
    if char > "\x20":  # JSON has the others only as escapes
        (tmp_path / "a.jsonl").write_bytes(f'{{"p": "{text}"}}'.encode())
        assert read(tmp_path / "a.jsonl") == [(1, {"p": text})]


def test_a_long_cell_is_read_whole(tmp_path: Path) -> None:
    text = "word " * 60_000
    (tmp_path / "a.csv").write_text(f"p,q\n{text},x\n")
    assert read(tmp_path / "a.csv") == [(2, {"p": text, "q": "x"})]


def test_a_row_of_a_table_has_the_line_on_which_it_begins(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('p,q\n"one\ntwo",x\n\nthree,y\n')
    assert [number for number, _ in read(tmp_path / "a.csv")] == [2, 5]


def test_parquet_gives_what_is_nested(tmp_path: Path) -> None:
    rows = [
        {"ask": {"text": f"prompt {i}"}, "turns": [{"role": "user", "content": f"prompt {i}"}]}
        for i in range(3000)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.Parquet")
    assert read(tmp_path / "a.Parquet") == list(enumerate(rows, start=1))


def test_a_parquet_file_is_not_held_whole_as_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.Table.from_pylist([{"p": "x"}] * 5000), tmp_path / "a.parquet")
    sizes: list[int] = []
    batches = pq.ParquetFile.iter_batches

    def watched(self: pq.ParquetFile, **how: int) -> object:
        for batch in batches(self, **how):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    rows = records(tmp_path / "a.parquet")
    next(rows)
    assert sizes == [1024]
    assert sum(1 for _ in rows) == 4999


@pytest.mark.parametrize(
    ("name", "raw", "line"),
    [
        ("a.jsonl", None, "a.jsonl: no such file; check the path"),
        ("a.parquet", None, "a.parquet: no such file; check the path"),
        (
            "a.xlsx",
            b"",
            "a.xlsx: unknown kind of file '.xlsx'; use .jsonl, .ndjson, .json, .csv, .tsv or "
            ".parquet",
        ),
        ("a.jsonl", b"\n", "a.jsonl: no rows; give a file that has some"),
        ("a.json", b"", "a.json: no rows; give a file that has some"),
        ("a.json", b"[]", "a.json: no rows; give a file that has some"),
        ("a.csv", b"p,q\n", "a.csv: no rows; give a file that has some"),
        (
            "a.jsonl",
            b'{"p": "x"}\n{"p": "\xff"}\n',
            "a.jsonl:2: is not UTF-8 (invalid start byte at byte 8); save it as UTF-8",
        ),
        (
            "a.csv",
            b"p\nx\n\xe9t\xe9\n",
            "a.csv:3: is not UTF-8 (invalid continuation byte at byte 1); save it as UTF-8",
        ),
        (
            "a.json",
            b'[{"p": "\xff"}]',
            "a.json:1: is not UTF-8 (invalid start byte at byte 9); save it as UTF-8",
        ),
        (
            "a.jsonl",
            b'{"p": "\\ud83d"}\n',
            "a.jsonl:1: column 1 holds half a surrogate pair, which is no character; write the "
            "character whole, or take it out",
        ),
        (
            "a.json",
            b'[{"p": ["x", {"q": "\\udc00"}]}]',
            "a.json:1: column 1 holds half a surrogate pair, which is no character; write the "
            "character whole, or take it out",
        ),
        (
            "a.jsonl",
            b'{"p": "\\u0000"}\n',
            "a.jsonl:1: column 1 holds a NUL character; take it out",
        ),
        ("a.csv", b"p,q\nx,\0\n", "a.csv:2: the line holds a NUL character; take it out"),
        (
            "a.jsonl",
            b'{"p": "placeholder"\n',
            "a.jsonl:1: not JSON (Expecting ',' delimiter at column 20); write one object a line",
        ),
        (
            "a.jsonl",
            b'{"p": "x", "p": "y"}\n',
            "a.jsonl:1: not JSON (a name stands twice in one object); write one object a line",
        ),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: not a JSON object; write one object a line"),
        (
            "a.json",
            b'{"p": "x"}\n{"p": "y"}\n',
            "a.json: not JSON (Extra data at line 2, column 1); write a list of objects; with one "
            "a line, name it .jsonl",
        ),
        (
            "a.json",
            b'{"p": [1], "q": [2]}',
            "a.json: an object with 2 lists in it; write one list of objects",
        ),
        ("a.json", b'"x"', "a.json: no list of objects; write one"),
        (
            "a.json",
            b'["x"]',
            "a.json:1: this row is no JSON object; write a list of objects",
        ),
        (
            "a.csv",
            b"p,q\nx,y\nx,y,z\n",
            "a.csv:3: expected 2 cells, the row has 3; quote a cell that holds the separator, and "
            "give every row all its cells",
        ),
        (
            "a.csv",
            b"p,q\nx\n",
            "a.csv:2: expected 2 cells, the row has 1; quote a cell that holds the separator, and "
            "give every row all its cells",
        ),
        (
            "a.csv",
            b"p,q,p\nx,y,z\n",
            "a.csv:1: columns 1 and 3 have the same name; give each its own",
        ),
        (
            "a.csv",
            b'p,q\nx,"y\nz,w\n',
            "a.csv:2: a quote is opened and never closed; close it, and write a quote in it twice",
        ),
        (
            "a.parquet",
            b"p",
            "a.parquet: not a Parquet file (Parquet file size is 1 bytes, smaller than the minimum "
            "file footer (8 bytes)); write it again",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, raw: bytes | None, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if raw is not None:
        Path(name).write_bytes(raw)
    with pytest.raises(DataError) as caught:
        read(Path(name))
    assert str(caught.value) == line


def test_a_folder_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "a.parquet"):
        Path(name).mkdir()
        with pytest.raises(DataError) as caught:
            read(Path(name))
        assert str(caught.value) == f"{name}: is a folder; name a file in it"


@pytest.mark.parametrize("depth", [990, 100_000])
def test_rows_nested_too_deep_are_told_in_one_line(tmp_path: Path, depth: int) -> None:
    (tmp_path / "a.jsonl").write_text('{"\\u0061":' * depth + "1" + "}" * depth)
    with pytest.raises(DataError, match=r"a\.jsonl.*deep|depth"):
        read(tmp_path / "a.jsonl")


def test_text_is_read_without_its_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("a.jinja")
    path.write_bytes(BOM + "one\u2028two\n".encode())
    assert read_text(path) == "one\u2028two\n"
    for raw, line in (
        (b"one\ntwo\0", "a.jinja:2: the text holds a NUL character; take it out"),
        (
            b"one\n\xff",
            "a.jinja:2: is not UTF-8 (invalid start byte at byte 1); save it as UTF-8",
        ),
    ):
        path.write_bytes(raw)
        with pytest.raises(DataError) as caught:
            read_text(path)
        assert str(caught.value) == line
    with pytest.raises(DataError) as caught:
        content_of(Path("none"))
    assert str(caught.value) == "none: no such file; check the path"
