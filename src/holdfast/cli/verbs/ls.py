"""`holdfast ls`: list the methods there are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.saying import say
from holdfast.errors import ConfigError

BEGIN, END = "<!-- methods: holdfast ls --into README.md -->", "<!-- /methods -->"
"""Marks in a Markdown file between which the table of methods belongs."""
SETS = "<!-- published: holdfast ls source --into docs/data.md -->", "<!-- /published -->"
"""Marks between which the table of published data sets belongs."""


def ls(
    kind: Annotated[
        str | None, typer.Argument(help="defence, attack, judge or source; all without it.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            help="A Markdown file: write the table of methods, or that of published data sets, "
            "between its marks."
        ),
    ] = None,
) -> None:
    """List the methods of this package and of installed plugins."""
    from holdfast.api.registry import KINDS, about, names, origin

    kinds = [kind] if kind is not None else list(KINDS)
    if into is not None:
        _write(into, {(BEGIN, END): lambda: table(kinds), SETS: published})
        return
    for one in kinds:
        for name in names(one):
            where, said = origin(one, name), about(one, name)
            said += _terms(name) if one == "source" else ""
            say(f"{one:<9}{name:<20}{'' if where == 'holdfast' else f'[{where}] '}{said}")


def published() -> str:
    """Give this package's published data sets as a Markdown table: terms, size, commit."""
    from holdfast.api.registry import about, find, names
    from holdfast.data.published import Published

    lines = ["| name | what it is | licence | gated | size | commit |", "|---|---|---|---|---|---|"]
    for name in names("source"):
        cls = find("source", name)
        if issubclass(cls, Published):
            place, gated = f"[`{name}`]({cls.place.link})", "yes" if cls.place.gated else "no"
            commit = f"`{cls.commit[:12]}`" if cls.commit else "the newest"
            cells = (place, about("source", name), cls.licence, gated, cls.size, commit)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


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


def _write(path: Path, tables: dict[tuple[str, str], Callable[[], str]]) -> None:
    """Write each table between its marks, where a file has them."""
    from holdfast.disk import write_bytes

    try:
        whole = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read ({error})", "name a text file") from None
    places = 0
    for (begin, end), table_of in tables.items():
        found = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
        if found.search(whole):
            text, places = table_of(), places + 1
            whole = found.sub(lambda marks, text=text: f"{marks[1]}{text}\n{marks[2]}", whole)
    if not places:
        raise ConfigError(str(path), "has no place for the table", f"write {BEGIN} and {END} in it")
    write_bytes(path, whole.encode())
