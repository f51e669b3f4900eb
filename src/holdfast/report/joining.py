"""Tables of one study whose seeds ran apart, put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigError
from holdfast.report.saved import Saved

if TYPE_CHECKING:
    import pyarrow as pa

OWN = ("seeds", "provenance", "leakage", "holes")
"""What the parts of one study may say differently of themselves."""
TODO = "join what one study file made, each part with other --seeds"


def joined(parts: Mapping[str, Saved]) -> Saved:
    """Give the tables of all seeds, of parts by the folder that each lies in.

    The first part's word on leakage is kept: sides are the same at every seed. Where the parts'
    provenance differs, both are named.

    Raises:
        ConfigError: fewer than two parts, parts of different studies, or a seed in two of them.
    """
    if len(parts) < 2:
        raise ConfigError("join", "one part is nothing to join", "name two folders or more")
    (first_name, first), *others = parts.items()
    seen = dict.fromkeys(first.meta["seeds"], first_name)
    for name, part in others:
        _check_same(name, part, first_name, first)
        for seed in part.meta["seeds"]:
            if seed in seen:
                what = f"holds seed {seed}, as {seen[seed]} does"
                raise ConfigError(name, what, "leave one of the two out")
            seen[seed] = name
    every = list(parts.values())
    meta = dict(first.meta) | {
        "seeds": sorted(seen),
        "holes": [hole for part in every for hole in part.meta.get("holes") or []],
        "provenance": _both([part.meta.get("provenance") or {} for part in every]),
    }
    return Saved(
        outcomes=_stacked([part.outcomes for part in every]),
        lineups=_stacked([part.lineups for part in every]),
        meta=meta,
        **{name: _stacked([getattr(part, name) for part in every]) for name in _looks(first)},
        **{name: None for name in ("analysis", "scatter") if name not in _looks(first)},
    )


def _looks(part: Saved) -> list[str]:
    """Name the tables that only some studies have and this one has."""
    return [n for n in ("analysis", "scatter", "provider") if getattr(part, n) is not None]


def _check_same(name: str, part: Saved, first_name: str, first: Saved) -> None:
    """Refuse a part of another study."""
    for key in sorted({*first.meta, *part.meta} - {*OWN}):
        if _plain(first.meta.get(key)) != _plain(part.meta.get(key)):
            what = f"is of another study than {first_name}: '{key}' differs"
            raise ConfigError(name, what, TODO)
    made = [
        {row["lineup"]: row["defences"] for row in saved.lineups.to_pylist()}
        for saved in (first, part)
    ]
    for lineup in sorted({*made[0], *made[1]}):
        if made[0].get(lineup) != made[1].get(lineup):
            what = f"is of another study than {first_name}: line-up '{lineup}' differs"
            raise ConfigError(name, what, TODO)
    if _looks(first) != _looks(part):
        what = f"is of another study than {first_name}: it has other tables"
        raise ConfigError(name, what, TODO)


def _plain(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _both(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Give what each part says of how it was made: once where all say the same."""
    found: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in told for key in one):
        values = list({_plain(one.get(key)): one.get(key) for one in told}.values())
        found[key] = values[0] if len(values) == 1 else " | ".join(map(str, values))
    return found


def _stacked(tables: Sequence[pa.Table]) -> pa.Table:
    """Give one table with all rows; a column that a part lacks is empty there."""
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="default").combine_chunks()
