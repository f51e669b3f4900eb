"""A table of words, written as Markdown or as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.report.table_files import cell


@dataclass(frozen=True, slots=True)
class Table:
    """Column heads and rows of words; `title` is a line above it, if there is one."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


def percent(values: Iterable[float | None]) -> str:
    """Write the seeds' shares in percent."""
    return ", ".join("-" if v is None else f"{100 * v:.0f}" for v in values)


def markdown(tables: Iterable[Table]) -> str:
    """Write tables one after another, an empty line after each."""
    written = []
    for table in tables:
        lines = [table.heads, ["---"] * len(table.heads), *table.rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        written.append(f"{table.title}\n\n{body}\n\n" if table.title else f"{body}\n\n")
    return "".join(written)


def comma_separated(tables: Iterable[Table], name: str) -> str:
    """Write tables as CSV, an empty line after each; the first column says which table it is."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for table in tables:
        writer.writerow(["table", *table.heads])
        title = f"{name}: {table.title}" if table.title else name
        writer.writerows([title, *map(cell, row)] for row in table.rows)
        buffer.write("\n")
    return buffer.getvalue()
