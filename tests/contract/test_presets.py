"""Every preset's fields are those of a table that names the source of each.

`presets.csv` has a row for each field that a preset gives, and for the loop's that change what is
trained whether or not it gives them: a default that a preset takes over unseen is declared too.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from holdfast.api import Method, registry

TABLE = Path(__file__).parent / "presets.csv"
TRAINED = (
    "steps", "batch", "lr", "schedule", "warmup", "weight_decay", "decay_norms", "clip",
    "precision",
)  # fmt: skip
"""Fields of the loop that every preset of a trained method declares."""


class Entry(NamedTuple):
    """A row of the table; `value` is JSON."""

    method: str
    preset: str
    field: str
    value: str
    source: str


def entries() -> list[Entry]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [Entry(**row) for row in csv.DictReader(file)]


def flat(group: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Give every field at any depth by its dotted name."""
    for name, value in group.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def wrong(cls: type[Method], table: list[Entry]) -> list[str]:
    """Say what the table lacks of a method's presets, and where it says something else."""
    found = []
    for preset, given in cls.presets.items():
        made = dict(flat(cls.model_validate({"preset": preset}).model_dump(mode="json")))
        rows = {e.field: e for e in table if (e.method, e.preset) == (cls.name(), preset)}
        where = f"{cls.name()} {preset}"
        wanted = {name for name, _ in flat(given)}
        wanted |= {f"loop.{name}" for name in TRAINED if f"loop.{name}" in made}
        for name in sorted(wanted - rows.keys()):
            found.append(f"{where}: no row for {name} = {json.dumps(made.get(name))}")
        for name, entry in rows.items():
            if name not in made:
                found.append(f"{where}: no field {name}")
            elif json.loads(entry.value) != made[name]:
                found.append(f"{where}: {name} is {json.dumps(made[name])}, not {entry.value}")
            if len(entry.source.split()) < 2:
                found.append(f"{where}: {name} names no source")
    return found


def methods() -> list[type[Method]]:
    every = [registry.find(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
    own = [cls for cls in every if cls.__module__.startswith("holdfast.")]
    return [cls for cls in own if issubclass(cls, Method)]


@pytest.mark.parametrize("cls", methods(), ids=lambda cls: cls.name())
def test_every_presets_fields_are_the_tables(cls: type[Method]) -> None:
    found = wrong(cls, entries())
    assert not found, f"mend tests/contract/presets.csv or the preset: {found}"


def test_no_row_is_of_a_preset_that_is_gone_and_none_stands_twice() -> None:
    known = {(cls.name(), preset) for cls in methods() for preset in cls.presets}
    table = entries()
    assert {(e.method, e.preset) for e in table} == known
    assert len({e[:3] for e in table}) == len(table)


def test_a_preset_without_a_row_another_value_and_no_source_are_found() -> None:
    cls, table = registry.find("defence", "rep_noise"), entries()
    clip = next(e for e in table if (e.method, e.preset, e.field) == (
        "rep_noise", "released", "loop.clip"
    ))  # fmt: skip
    rest = [e for e in table if e != clip]
    assert not wrong(cls, table)
    assert wrong(cls, rest) == ["rep_noise released: no row for loop.clip = null"]
    assert wrong(cls, [*rest, clip._replace(value="1.0")]) == [
        "rep_noise released: loop.clip is null, not 1.0"
    ]
    assert wrong(cls, [*rest, clip._replace(source="")]) == [
        "rep_noise released: loop.clip names no source"
    ]
    assert wrong(cls, [*table, clip._replace(field="loop.clap")]) == [
        "rep_noise released: no field loop.clap"
    ]
    new = type(
        "New", (cls,), {"presets": {"other": {"noise_weight": 1.0}}, "__module__": cls.__module__}
    )
    assert "rep_noise other: no row for noise_weight = 1.0" in wrong(new, table)
