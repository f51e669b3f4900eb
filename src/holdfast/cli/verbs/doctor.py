"""`holdfast doctor`: say what this machine has, and what is missing for a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.options import StoreFolder
from holdfast.cli.saying import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from holdfast.cli.health import Seen


def doctor(
    study: Annotated[
        Path | None,
        typer.Argument(help="A study file: look at exactly what it needs. Downloads nothing."),
    ] = None,
    store: StoreFolder = Path("runs"),
) -> None:
    """Say what this machine has, and what is missing: for the demo, or for a study."""
    from holdfast.cli.health import catalogue, machine, needed
    from holdfast.study.file import load_study

    said = None if study is None else load_study(study)
    say("this machine")
    found = _told(machine(store))
    if said is None:
        say("models, sources and judges")
        found += _told(catalogue())
    else:
        say(f"study {said.name}")
        found += _told(needed(said))
    faults = [seen.fault for seen in found if seen.fault is not None]
    if faults:
        raise faults[0]
    say("all is well" if study is None else "all it needs is here or can be fetched")


def _told(things: Iterable[Seen]) -> list[Seen]:
    """Say each thing as it is found."""
    found = []
    for seen in things:
        say(seen.line())
        found.append(seen)
    return found
