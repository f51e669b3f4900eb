"""Prompts and answers as JSON lines, checked line by line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.errors import DataError


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Give the JSON objects of a file, one a line.

    Raises:
        DataError: the file cannot be read, has no line, or a line is no object.
    """
    from holdfast.engine.store import read_lines

    try:
        rows = read_lines(path)
    except FileNotFoundError:
        raise DataError(str(path), "no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "write JSON lines") from None
    if not rows:
        raise DataError(str(path), "no rows", "write JSON lines")
    for i, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{i}", "not a JSON object", "write one object a line")
    return rows


def text(row: dict[str, Any], name: str, where: str) -> str:
    """Give a field that must be text; raises DataError where it is not."""
    if not isinstance(row.get(name), str):
        raise DataError(where, f"no text under '{name}'", f"give every line a '{name}'")
    return row[name]


def text_or_none(row: dict[str, Any], name: str, where: str) -> str | None:
    """Give a field that may be missing; raises DataError where it is there and no text."""
    return None if row.get(name) is None else text(row, name, where)


def meta(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Give what a judge may know of a line; raises DataError where a field is of another kind."""
    from holdfast.api import Known

    found = row.get("meta") or {}
    if not isinstance(found, dict):
        raise DataError(where, "'meta' is no object", "write fields there, or leave it out")
    try:
        Known.of(found)
    except DataError as error:
        raise DataError(where, f"'{error.where}' {error.what}", error.todo) from None
    return found
