"""Methods are found by file name inside the package and by entry point outside it.

A method is a file, or a folder whose `__init__.py` holds it beside its own mathematics.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from holdfast.api.attack import Attack
from holdfast.api.defence import Defence
from holdfast.api.fields import decode
from holdfast.api.judge import Judge
from holdfast.api.method import Method
from holdfast.api.source import Source
from holdfast.errors import ConfigError, did_you_mean

KINDS: dict[str, tuple[str, type[Method]]] = {
    "defence": ("defences", Defence),
    "attack": ("attacks", Attack),
    "judge": ("judges", Judge),
    "source": ("data.sources", Source),
}
"""Each kind's folder in the package and its base class. The folder's last part is its entry-point
group, and what a test bed calls its own folder of that kind."""

RENAMED: dict[tuple[str, str], str] = {("source", "file"): "local"}
"""What a method was called: (kind, old name) -> name."""


def _kind(kind: str) -> tuple[str, type[Method]]:
    known = {**KINDS, "defense": KINDS["defence"]}
    if kind not in known:
        raise ConfigError(kind, "no such kind of method", did_you_mean(kind, KINDS))
    return known[kind]


def _modules(package: str) -> list[str]:
    """Give the modules of a package that are no helpers, or nothing where there is no package."""
    try:
        found = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        return []
    return sorted(m.name for m in pkgutil.iter_modules(found.__path__) if m.name[0] != "_")


@cache
def testbeds() -> tuple[str, ...]:
    """Give the packages of the test beds that come with this one."""
    return tuple(f"holdfast.testbeds.{name}" for name in _modules("holdfast.testbeds"))


@cache
def _inside(kind: str) -> dict[str, str]:
    """Give the package's own methods: name -> module."""
    folder = _kind(kind)[0]
    places = [f"holdfast.{folder}", *(f"{one}.{_group(kind)}" for one in testbeds())]
    return {name: f"{place}.{name}" for place in places for name in _modules(place)}


def _group(kind: str) -> str:
    return _kind(kind)[0].rpartition(".")[2]


def _outside(kind: str) -> dict[str, metadata.EntryPoint]:
    group = f"holdfast.{_group(kind)}"
    return {point.name: point for point in metadata.entry_points(group=group)}


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
    package, _, last = _inside(kind)[name].rpartition(".")
    folder = Path(importlib.import_module(package).__path__[0])
    file = folder / f"{last}.py"
    file = file if file.is_file() else folder / last / "__init__.py"
    try:
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(str(file), f"is no Python ({error})", "mend it") from None
    if not said:
        raise ConfigError(
            str(file), "has no docstring on its first line", "say in one what the method does"
        )
    return said.partition("\n")[0]


def find(kind: str, name: str, where: str | None = None) -> type[Method]:
    """Give the class of a method; an unknown name is a ConfigError with a suggestion."""
    base = _kind(kind)[1]
    where = where or f"{kind} '{name}'"
    if name in _inside(kind):
        return _only(importlib.import_module(_inside(kind)[name]), base, where)
    outside = _outside(kind)
    if name not in outside:
        known = names(kind)
        word = RENAMED.get((kind, name), name)
        raise ConfigError(where, f"no {kind} '{name}'", did_you_mean(word, known))
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


def _only(module: ModuleType, base: type[Method], where: str) -> type[Method]:
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


def make(kind: str, data: object, where: str) -> Method:
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


Shipped = Path | Callable[[str], Path]
"""A test bed's model: its folder, or what makes it at first use and gives its folder; the word it
takes is what an error names, as `study.models.base.path`."""


def shipped_models() -> dict[str, Shipped]:
    """Give the models that test beds bring: `world:base` -> its folder. Makes none."""
    found: dict[str, Shipped] = {}
    for package in testbeds():
        found |= importlib.import_module(package).models()
    return found
