"""Methods are found by file name inside the package and by entry point outside it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from holdfast.config import decode
from holdfast.errors import ConfigError, did_you_mean
from holdfast.method import Attack, Defence, Judge, Method, Source

KINDS: dict[str, tuple[str, type[Method]]] = {
    "defence": ("holdfast.defences", Defence),
    "attack": ("holdfast.attacks", Attack),
    "judge": ("holdfast.judges", Judge),
    "source": ("holdfast.data.sources", Source),
}
"""Each kind's folder (its entry-point group is the folder's last part) and base class."""


def _kind(kind: str) -> tuple[str, type[Method]]:
    known = {**KINDS, "defense": KINDS["defence"]}
    if kind not in known:
        raise ConfigError(kind, "no such kind of method", did_you_mean(kind, KINDS))
    return known[kind]


@cache
def _inside(kind: str) -> tuple[str, ...]:
    package = importlib.import_module(_kind(kind)[0])
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_"))


def _outside(kind: str) -> dict[str, metadata.EntryPoint]:
    folder = _kind(kind)[0].rpartition(".")[2]
    return {point.name: point for point in metadata.entry_points(group=f"holdfast.{folder}")}


def names(kind: str) -> list[str]:
    """Give every registry key of a kind, the package's own and the plugins', sorted."""
    return sorted({*_inside(kind), *_outside(kind)})


def origin(kind: str, name: str) -> str:
    """Say where a method comes from: `holdfast`, or the distribution that brings it."""
    if name in _inside(kind):
        return "holdfast"
    point = _outside(kind)[name]
    return point.dist.name if point.dist else point.value


def about(kind: str, name: str) -> str:
    """Give a method's first line: of the package's own the file's, read without importing it.

    Importing all of them, with every field's documentation, would take a second.
    """
    if name not in _inside(kind):
        return (find(kind, name).__doc__ or "").strip().partition("\n")[0]
    folder = importlib.import_module(_kind(kind)[0]).__path__[0]
    text = (Path(folder) / f"{name}.py").read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text[: text.index('"""', 3) + 3]))
    return (said or "").partition("\n")[0]


def find(kind: str, name: str, where: str | None = None) -> type[Method]:
    """Give the class of a method; an unknown name is a ConfigError with a suggestion."""
    folder, base = _kind(kind)
    where = where or f"{kind} '{name}'"
    if name in _inside(kind):
        return _only(importlib.import_module(f"{folder}.{name}"), base, where)
    outside = _outside(kind)
    if name not in outside:
        raise ConfigError(where, f"no {kind} '{name}'", did_you_mean(name, names(kind)))
    point = outside[name]
    try:
        found = point.load()
    except Exception as error:  # whatever a plugin does wrong must not look like our fault
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError(
            where, f"plugin '{point.value}' cannot be imported ({cause})", "mend or uninstall it"
        ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            where,
            f"plugin '{point.value}' is no {base.__name__}",
            f"derive it from {base.__name__}",
        )
    if found.name() != name:
        raise ConfigError(
            where,
            f"plugin '{point.value}' lives in a file named '{found.name()}'",
            "give file and entry point the same name",
        )
    return found


def _only(module: Any, base: type[Method], where: str) -> type[Method]:
    """Give the one method class that a module defines."""
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]
    if len(own) != 1:
        raise ConfigError(where, f"{len(own)} method classes in one file", "keep exactly one")
    return own[0]


def make(kind: str, data: Any, where: str) -> Method:
    """Make a method from what a study file says: `name`, or `name: {fields}`."""
    if isinstance(data, str):
        name, fields = data, None
    elif isinstance(data, dict) and len(data) == 1:
        ((name, fields),) = data.items()
    else:
        raise ConfigError(
            where,
            f"expected one {kind}, got {data!r}"[:160],
            "write `name` or `name: {field: value}`",
        )
    return decode(find(kind, str(name), where), fields, f"{where}.{name}")
