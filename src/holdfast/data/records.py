"""The one reader of rows and text that come from outside: what enters is what was meant."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from holdfast.errors import DataError

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""Files of rows, by their ending in any case."""

BATCH = 1024
"""Rows of a Parquet file that are Python objects at once."""

LONGEST_CELL = 2**31 - 1
"""Characters of one CSV cell, at most: what the csv module can count on every machine."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
"""What a name looks like: one that does not may be a row's text, which no error shows."""

KNOWN = frozenset((
    "behavior",  # spelling: theirs
    "prompt", "response", "completion", "answer", "answers", "question", "query", "ask", "say",
    "instruction", "input", "output", "context", "text", "content", "message", "messages",
    "conversation", "conversations", "chat", "dialog", "dialogue", "turns", "history",
    "system", "role", "from", "value", "chosen", "rejected", "request", "reply", "target",
    "goal", "behaviour", "label", "labels", "category", "categories", "topic",
    "subset", "split", "type", "source", "group", "group_id", "id", "uid", "idx", "index",
    "name", "title", "meta", "metadata", "options", "choices", "answer_index", "score", "q",
    "a",
))  # fmt: skip
"""Names that columns have. A line that has none of them may be a row's, in a file without a line of
names."""


def is_rows(name: str) -> bool:
    """Say whether a name is that of a file of rows, by its ending."""
    return Path(name).suffix.lower() in ENDINGS


def records(path: Path, *, comments: bool = False) -> Iterator[tuple[int, dict[str, object]]]:
    """Give each row of a file with the number, from 1, that an error about it names.

    JSONL and CSV count lines, and a row has the line on which it begins; JSON and Parquet count
    rows. Text is UTF-8, with or without a byte order mark. CSV gives text; the others what they
    hold, with lists and dicts where it is nested. With `comments`, lines of CSV before the header
    that begin with `#` are passed over.

    Raises:
        DataError: no such file, a kind that is not in `ENDINGS`, no rows, or anything that would
            lose or change text: another encoding, a row with a cell too many or too few, a name
            that stands twice, a quote left open, a NUL character, half a surrogate pair.
    """
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        known = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
        raise DataError(str(path), f"unknown kind of file '{path.suffix}'", f"use {known}")
    empty = True
    try:
        for number, record in _READERS[kind](path, comments):
            empty = False
            yield number, record
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except RecursionError:
        cause = "lists or objects stand too deep in each other"
        raise DataError(str(path), cause, "write rows with fewer") from None
    if empty:
        raise DataError(str(path), "no rows", "give a file that has some")


def read_text(path: Path) -> str:
    """Give the text of a UTF-8 file, without its byte order mark.

    Raises:
        DataError: no such file, another encoding, a NUL character.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error) from None
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    line = text[: text.find("\0") + 1].count("\n") + 1
    check_text(text, f"{path}:{line}", "the text")
    return text


def content_of(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, in hexadecimal; raises DataError where it has none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def check_text(value: object, where: str, what: str) -> None:
    """Raise DataError where text, or any text inside lists and dicts, is not sound.

    `what` names the value in the error, whose words are never shown.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise DataError(where, f"{what} holds a NUL character", "take it out")
        try:
            value.encode()
        except UnicodeEncodeError:
            cause = f"{what} holds half a surrogate pair, which is no character"
            raise DataError(where, cause, "write the character whole, or take it out") from None
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            check_text(name, where, f"a name in {what}")
            check_text(inner, where, what)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_text(inner, where, what)


def _sound(text: str) -> bool:
    """Say whether `check_text` has nothing against a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def shown(names: Iterable[str]) -> str:
    """Give names of columns for an error: one that may be a row's text is only counted.

    Where none is of `KNOWN`, all may be.
    """
    return ", ".join(_labels(names)) or "none"


def named(names: Iterable[str]) -> bool:
    """Say whether some names are those of columns: one of them is `KNOWN`, in any case."""
    return any(name.strip().lower() in KNOWN for name in names)


def words_shown(words: Iterable[str]) -> list[str]:
    """Give those of some rows' words, such as categories, that an error may show: `NAME`s."""
    return [word for word in words if NAME.fullmatch(word)]


def _labels(names: Iterable[str]) -> list[str]:
    names = list(names)
    sure = named(names)
    return [
        name if sure and NAME.fullmatch(name) else f"(column {i})"
        for i, name in enumerate(names, start=1)
    ]


def _check_row(record: dict[str, object], where: str) -> None:
    for i, (name, value) in enumerate(record.items()):
        check_text(name, where, "a column's name")
        if isinstance(value, str) and _sound(value):
            continue
        label = _labels(record)[i]
        check_text(value, where, f"column '{name}'" if label == name else label.strip("()"))


def _json_lines(path: Path, _comments: bool) -> Iterator[tuple[int, dict[str, object]]]:
    with path.open("rb") as file:  # bytes are split at "\n" alone, text also at U+2028 and others
        for number, raw in enumerate(file, start=1):
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip(" \t\r\n")
            if not line:
                continue
            where = f"{path}:{number}"
            record = _parsed(line, where, "write one object a line")
            if not isinstance(record, dict):
                raise DataError(where, "not a JSON object", "write one object a line")
            if "\\u" in line:  # nothing else can spell what is refused
                _check_row(record, where)
            yield number, record


def _json(path: Path, _comments: bool) -> Iterator[tuple[int, dict[str, object]]]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    found = _parsed(text, str(path), "write a list of objects; with one a line, name it .jsonl")
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        if any(map(_says, lists)):  # one row, not rows
            lists = [[found]]
        if len(lists) != 1:
            cause = f"an object with {len(lists)} lists in it"
            raise DataError(str(path), cause, "write one list of objects")
        found = lists[0]
    if not isinstance(found, list):
        raise DataError(str(path), "no list of objects", "write one")
    for number, record in enumerate(found, start=1):
        where = f"{path}:{number}"
        if not isinstance(record, dict):
            raise DataError(where, "this row is no JSON object", "write a list of objects")
        if "\\u" in text:
            _check_row(record, where)
        yield number, record


def _says(value: list[object]) -> bool:
    """Say whether a list holds what was said in one conversation."""
    keys = ({"role", "from"}, {"content", "value"})
    return bool(value) and all(
        isinstance(one, dict) and all(one.keys() & some for some in keys) for one in value
    )


def _parsed(text: str, where: str, todo: str) -> object:
    """Give what JSON text says; errors name a column, never a word of it."""
    try:
        return _JSON.decode(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text else ""
        cause = f"not JSON ({error.msg} at {line}column {error.colno})"
        raise DataError(where, cause, todo) from None
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"not JSON ({error})", todo) from None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _table(path: Path, comments: bool) -> Iterator[tuple[int, dict[str, object]]]:
    """Read CSV, or TSV by its ending."""
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        rows = csv.reader(_without_nul(file, path), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            number = rows.line_num + 1
            where = f"{path}:{number}"
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                opened = "unexpected end" in str(error)
                cause = "a quote is opened and never closed" if opened else f"not CSV ({error})"
                raise DataError(where, cause, "close it, and write a quote in it twice") from None
            if not cells or (header is None and comments and cells[0].startswith("#")):
                continue
            if header is None:
                header = cells
                _check_header(header, where)
            elif len(cells) != len(header):
                raise DataError(
                    where,
                    f"expected {len(header)} cells, the row has {len(cells)}",
                    "quote a cell that holds the separator, and give every row all its cells",
                )
            else:
                yield number, dict(zip(header, cells, strict=True))


def _without_nul(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise DataError(f"{path}:{number}", "the line holds a NUL character", "take it out")
        yield line


def _check_header(header: list[str], where: str) -> None:
    """Refuse two columns of one name: one would hide the other."""
    for i, name in enumerate(header):
        first = header.index(name)
        if first != i:
            cause = f"columns {first + 1} and {i + 1} have the same name"
            raise DataError(where, cause, "give each its own")


def _parquet(path: Path, _comments: bool) -> Iterator[tuple[int, dict[str, object]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.open("rb").close()  # no such file, a folder: told as for the others
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _check_header(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=BATCH):
                for record in batch.to_pylist():
                    number += 1
                    _check_row(record, f"{path}:{number}")
                    yield number, record
    except (pa.ArrowException, OSError) as error:
        cause = str(error).splitlines()[0]
        raise DataError(str(path), f"not a Parquet file ({cause})", "write it again") from None
    except UnicodeDecodeError:
        cause = f"text that is not UTF-8 at or after row {number + 1}"
        raise DataError(str(path), cause, "write it as UTF-8") from None


_JSON = json.JSONDecoder(object_pairs_hook=_once)

_READERS = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}


def _unreadable(path: Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(str(path), "no such file", "check the path")
    if isinstance(error, IsADirectoryError):
        return DataError(str(path), "is a folder", "name a file in it")
    return DataError(str(path), f"cannot be read ({error.strerror})", "check the file")


def _not_utf8(path: Path) -> DataError:
    """Say on which line text stops being UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                cause = f"is not UTF-8 ({error.reason} at byte {error.start + 1})"
                return DataError(f"{path}:{number}", cause, "save it as UTF-8")
    return DataError(str(path), "is not UTF-8", "save it as UTF-8")
