"""A method in a table's cell."""

from __future__ import annotations

from holdfast.api import Method
from holdfast.api.fields import Fields


def method_text(method: Fields, usual: Fields | None = None) -> str:
    """Give a method as a reader sees it: its name and the fields that are not its default.

    `usual` is what a nested group is when its method says nothing.
    """
    shown = []
    for name, info in type(method).model_fields.items():
        value = getattr(method, name)
        default = getattr(usual, name) if usual is not None else info.default
        if value == default:
            continue
        if isinstance(value, Fields):
            inner = default if isinstance(default, Fields) else None
            shown.append(f"{name}=({method_text(value, inner)})")
        else:
            shown.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    inside = ", ".join(shown)
    if not isinstance(method, Method):
        return inside
    return f"{method.name()}({inside})" if inside else method.name()
