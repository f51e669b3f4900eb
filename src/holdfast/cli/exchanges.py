"""The rows that commands are given in files: prompts to ask, answers to judge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.api.ends import STOP, ended
from holdfast.errors import DataError

if TYPE_CHECKING:
    from holdfast.api import Exchange
    from holdfast.data.example import Example
    from holdfast.data.shapes import Record


def prompts(path: str, columns: dict[str, str | None]) -> list[Example]:
    """Give the prompts of a file of rows; `columns` maps its columns, as `--column` does.

    A system prompt, earlier turns and what a judge must know are read from `system`, `turns` and
    `meta` where rows have them: what `generate` wrote can be asked again.

    Raises:
        DataError: the file cannot be read, or a row has no prompt.
    """
    from holdfast.api.registry import make
    from holdfast.data.records import records

    there = {name for _, record in records(Path(path)) for name in record}
    kept = {name: name for name in ("system", "turns", "meta") if name in there}
    given = {"path": path, "role": "harmful", "response": None} | kept | columns
    asked: Any = make("source", {"local": given}, "--prompts")
    return list(asked.examples())


def exchanges(path: Path) -> Iterator[Exchange]:
    """Give the prompts and answers of a file, as `generate` writes them.

    Raises:
        DataError: the file cannot be read, or a row has no prompt or response, or a field of
            another kind.
    """
    from holdfast.api import Exchange
    from holdfast.data.records import records
    from holdfast.data.shapes import meta_of, turns_of

    for number, row in records(path):
        where = f"{path}:{number}"
        yield Exchange(
            example_uid=str(row.get("uid", number)),
            system=_text_or_none(row, "system", where) or None,
            prompt=_text(row, "prompt", where),
            prefill=_text_or_none(row, "prefill", where) or "",
            response=_text(row, "response", where),
            finish_reason=ended(_text_or_none(row, "finish_reason", where) or STOP),
            meta=meta_of(row, "meta", where),
            turns=turns_of(row, "turns", where),
        )


def _text(row: Record, name: str, where: str) -> str:
    found = row.get(name)
    if not isinstance(found, str):
        raise DataError(where, f"no text under '{name}'", f"give every line a '{name}'")
    return found


def _text_or_none(row: Record, name: str, where: str) -> str | None:
    return None if row.get(name) is None else _text(row, name, where)
