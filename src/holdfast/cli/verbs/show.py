"""`holdfast show`: show one method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.saying import say
from holdfast.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from holdfast.data.published import Published


def show(name: Annotated[str, typer.Argument(help="A method's name; see `holdfast ls`.")]) -> None:
    """Show a method: what it does, its fields with their defaults and sources, its cost."""
    from holdfast.api import Attack, Defence
    from holdfast.api.registry import KINDS, find, names, origin
    from holdfast.cli.described import fields
    from holdfast.data.published import Published

    kinds = [kind for kind in KINDS if name in names(kind)]
    if not kinds:
        every = [known for kind in KINDS for known in names(kind)]
        raise ConfigError(name, "no such method", did_you_mean(name, every))
    for kind in kinds:
        cls = find(kind, name)
        say(f"{kind} {name} (version {cls.version}, from {origin(kind, name)})")
        say(f"  {' '.join((cls.__doc__ or '').split())}")
        for label in ("equation", "paper", "cost"):
            if getattr(cls, label, ""):
                say(f"  {label}: {getattr(cls, label)}")
        if told := getattr(cls, "fidelity", ""):
            # The page is in the repository; an installed package has the sentence alone.
            page = "docs/judges.md" if kind == "judge" else f"docs/fidelity/{name}.md"
            page = f" ({page})" if origin(kind, name) == "holdfast" else ""
            say(f"  fidelity: {told}{page}")
        for label in ("roles", "needs"):
            values = getattr(cls, label, ())
            if isinstance(values, property):  # its fields decide: tell what the defaults ask for
                values = getattr(cls(), label)
            if values:
                say(f"  {label}: {', '.join(values)}")
        if issubclass(cls, Defence):
            say(f"  acts: {cls.when.value}; starts from: {cls.starts_from}")
        if issubclass(cls, Attack):
            say(f"  needs control of: {cls.control.value}; budget in: {cls.unit}")
        if issubclass(cls, Published):
            for line in _published(cls):
                say(f"  {line}")
        if cls.presets:
            say(f"  presets: clean, {', '.join(cls.presets)}")
        say("  fields:" if cls.model_fields else "  no fields")
        for line in fields(cls, "    "):
            say(line)


def _published(cls: type[Published]) -> Iterator[str]:
    """Give a line for each thing to know of a published data set before it is fetched."""
    place = cls.place
    yield f"from: {place.link}, {cls.commit or 'its newest commit'}"
    yield f"licence: {cls.licence}"
    terms = "yes: accept its terms there and set HF_TOKEN" if place.gated else "no"
    yield f"gated: {terms}; size: {cls.size}"
