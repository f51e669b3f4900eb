"""The fields of a method, as lines of text: what each takes, its default, its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Literal, Union, get_args, get_origin

from holdfast.api import Fields

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", NoneType: "None"}
BOUNDS = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
"""pydantic's names of a number's bounds, and ours."""


def fields(cls: type[Fields], indent: str, given: Fields | None = None) -> Iterator[str]:
    """Give a line for every field, those of a group under it, however deep.

    Args:
        given: where the defaults stand; the fields' own without it.
    """
    for name, info in cls.model_fields.items():
        about = " ".join((info.description or "").split())
        value = info.default if given is None else getattr(given, name)
        required = given is None and info.is_required()
        group = _group(info.annotation)
        if isinstance(value, Fields):
            yield f"{indent}{name}: {about}"
        else:
            shown = "required" if required else _plain(value)
            yield f"{indent}{name} ({_field(info)}) = {shown}: {about}"
        if group is not None:
            inner = value if isinstance(value, group) else None
            yield from fields(type(inner) if inner is not None else group, f"{indent}  ", inner)


def _group(kind: object) -> type[Fields] | None:
    """Give the group of fields that a field holds, if it is one, or None or one."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, Fields):
            return one
    return None


def _field(info: FieldInfo) -> str:
    """Say what a field takes."""
    return _bounded(_kind(info.annotation), tuple(info.metadata))


def _kind(kind: object) -> str:
    """Say what values of a kind are, as a study file has them."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _bounded(_kind(inner[0]), inner[1:])
    if origin is Literal:
        return _either([str(one) for one in inner])
    if origin in (Union, UnionType):
        return _either([_kind(one) for one in inner])
    if origin is tuple:
        some = dict.fromkeys(_kind(one) for one in inner if one is not Ellipsis)
        return f"list: {_either(list(some))}"
    if isinstance(kind, type) and issubclass(kind, Fields):
        return "fields"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "values by name"
    return WORDS.get(kind, "any value") if isinstance(kind, type) else "any value"


def _bounded(word: str, more: tuple[object, ...]) -> str:
    """Add the bounds that stand beside a kind."""
    found = {}
    for one in more:
        for part in (one, *getattr(one, "metadata", ())):
            found |= {BOUNDS[at]: getattr(part, at) for at in BOUNDS if hasattr(part, at)}
    return " ".join([word, *(f"{said} {bound:g}" for said, bound in found.items())])


def _either(words: list[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
