"""`holdfast ls`: list the methods there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from holdfast.errors import ConfigError

BEGIN, END = "<!-- methods: holdfast ls --into README.md -->", "<!-- /methods -->"
"""Marks in a Markdown file between which the table of methods belongs."""


def ls(
    kind: Annotated[
        str | None, typer.Argument(help="defence, attack, judge or source; all without it.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(help="A Markdown file: write the table of methods between its two marks."),
    ] = None,
) -> None:
    """List the methods of this package and of installed plugins."""
    from holdfast.api.registry import KINDS, about, names, origin

    kinds = [kind] if kind is not None else list(KINDS)
    if into is not None:
        _write(into, table(kinds))
        return
    for one in kinds:
        for name in names(one):
            where, said = origin(one, name), about(one, name)
            said += _terms(name) if one == "source" else ""
            typer.echo(f"{one:<9}{name:<17}{'' if where == 'holdfast' else f'[{where}] '}{said}")


def _terms(name: str) -> str:
    """Say what to know of a published data set before it is fetched; nothing of another source."""
    from holdfast.api.registry import find
    from holdfast.data.published import Published

    cls = find("source", name)
    if not issubclass(cls, Published):
        return ""
    gated = "gated; " if cls.place.gated else ""
    return f" [{gated}{cls.licence}; {cls.size}]"


def table(kinds: list[str]) -> str:
    """Give this package's methods as a Markdown table: what each does, what was checked of it."""
    from holdfast.api.registry import about, find, names, origin

    lines = ["| name | kind | what it does | status |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {one} | {about(one, name)} | {find(one, name).status} |"
        for one in kinds
        for name in names(one)
        if origin(one, name) == "holdfast"
    ]
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    from holdfast.disk import write_bytes

    try:
        whole = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read ({error})", "name a text file") from None
    found = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", re.DOTALL)
    if not found.search(whole):
        raise ConfigError(str(path), "has no place for the table", f"write {BEGIN} and {END} in it")
    whole = found.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", whole)
    write_bytes(path, whole.encode())
