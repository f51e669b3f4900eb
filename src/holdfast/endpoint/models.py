"""What a server lists of its models: their names, and what tells one's weights from others'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Facts: TypeAlias = dict[str, str | int | float]

META = ("n_params", "size", "ftype")
"""What llama.cpp's server says of a model's file."""


def listed(page: object) -> dict[str, Facts]:
    """Give what a page of models says of each, by name; servers differ in all but the name."""
    data = getattr(page, "data", None)
    found = {}
    for one in data if isinstance(data, list) else []:
        name = getattr(one, "id", None)
        if isinstance(name, str):
            found[name] = _facts(one)
    return found


def _facts(model: object) -> Facts:
    """Give what changes with a model's weights alone: vLLM's `root`, llama.cpp's `meta`."""
    meta = getattr(model, "meta", None)
    told = {"root": getattr(model, "root", None)}
    if isinstance(meta, Mapping):
        told |= {name: meta.get(name) for name in META}
    return {name: value for name, value in told.items() if isinstance(value, str | int | float)}
