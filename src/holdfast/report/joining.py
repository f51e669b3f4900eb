"""Tables of one study whose seeds ran apart, put together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigError, DataError
from holdfast.report.saved import Saved
from holdfast.stats.inert import FEW, acted, unknown

if TYPE_CHECKING:
    import pyarrow as pa

OWN = ("seeds", "provenance", "leakage", "holes", "provider", "flags", "not_tested", "doubts")
"""What the parts of one study may say differently of themselves."""
ASKED = ("lineup", "attack", "variant", "budget", "side", "set", "uid")
"""Columns of the outcomes that are the same at every seed of one study."""
TODO = "join what one study file made, each part with other --seeds"


def joined(parts: Mapping[str, Saved]) -> Saved:
    """Give the tables of all seeds, of parts by the folder that each lies in.

    The first part's word on leakage is kept: sides are the same at every seed. Where the parts'
    provenance differs, both are named. Whether a defence acted is decided anew, over all seeds.

    Raises:
        ConfigError: fewer than two parts, parts of different studies, a seed in two of them, or a
            study that taught an honest skill.
        DataError: a part whose rows are of other seeds than it says.
    """
    if len(parts) < 2:
        raise ConfigError("join", "one part is nothing to join", "name two folders or more")
    (first_name, first), *others = parts.items()
    seen: dict[int, str] = {}
    for name, part in parts.items():
        _check_whole(name, part)
        for seed in part.meta["seeds"]:
            if seed in seen:
                what = f"holds seed {seed}, as {seen[seed]} does"
                raise ConfigError(name, what, "leave one of the two out")
            seen[seed] = name
    for name, part in others:
        _check_same(name, part, first_name, first)
    every = list(parts.values())
    meta = dict(first.meta) | {
        "seeds": sorted(seen),
        "provenance": _both([part.meta.get("provenance") or {} for part in every]),
    }
    for key in ("holes", "flags", "not_tested", "doubts"):
        found = [one for part in every for one in part.meta.get(key) or []]
        meta[key] = list({_plain(one): one for one in found}.values())
    if hosted := [part.meta["provider"] for part in every if part.meta.get("provider")]:
        risks = [one for part in hosted for one in part.get("risks") or []]
        meta["provider"] = dict(hosted[0]) | {"risks": risks}
    looks = _looks(first)
    return Saved(
        outcomes=_stacked([part.outcomes for part in every]),
        lineups=_decided(_stacked([part.lineups for part in every]), sorted(seen)),
        meta=meta,
        analysis=_stacked([part.analysis for part in every]) if "analysis" in looks else None,
        scatter=_stacked([part.scatter for part in every]) if "scatter" in looks else None,
        provider=_stacked([part.provider for part in every]) if "provider" in looks else None,
    )


def _check_whole(name: str, part: Saved) -> None:
    """Refuse a part that says other seeds than its rows have, or that cannot be joined at all."""
    said = {*part.meta["seeds"]}
    rows = {*part.lineups["seed"].to_pylist()}
    if rows != said or not {*part.outcomes["seed"].unique().to_pylist()} <= said:
        known = ", ".join(map(str, sorted(rows)))
        what = f"its rows are of seed {known}, and meta.json says another"
        raise DataError(name, what, "keep the tables of one run together")
    if part.meta.get("tuning"):
        what = "is of a study that taught an honest skill, whose gains are counted over all seeds"
        raise ConfigError(name, what, "run all seeds in one place")


def _looks(part: Saved) -> list[str]:
    """Name the tables that only some studies have and this one has."""
    return [n for n in ("analysis", "scatter", "provider") if getattr(part, n) is not None]


def _check_same(name: str, part: Saved, first_name: str, first: Saved) -> None:
    """Refuse a part of another study.

    Tables of before hold no hash of their study (`study` of meta.json): of those, what was attacked
    and asked is compared, row by row, where nothing failed.
    """
    told = first.meta.get("study") and part.meta.get("study")
    if not told and not first.meta.get("holes") and not part.meta.get("holes"):
        apart = _asked(first) ^ _asked(part)
        if apart:
            one = dict(zip(ASKED, min(apart, key=str), strict=True))
            what = (
                f"is of another study than {first_name}: only one of them asks line-up "
                f"'{one['lineup']}' prompt {one['uid']} of set '{one['set']}' after "
                f"{one['attack']} {one['variant']} at {one['budget']:g}"
            )
            raise ConfigError(name, what, TODO)
    for key in sorted({*first.meta, *part.meta} - {*OWN, "study"}):
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
    hosted = [{**(saved.meta.get("provider") or {}), "risks": None} for saved in (first, part)]
    if _plain(hosted[0]) != _plain(hosted[1]):
        what = f"is of another study than {first_name}: 'provider' differs"
        raise ConfigError(name, what, TODO)
    if _looks(first) != _looks(part):
        what = f"is of another study than {first_name}: it has other tables"
        raise ConfigError(name, what, TODO)
    if told and first.meta["study"] != part.meta["study"]:
        what = f"is of another study than {first_name}: study file, models or rows differ"
        raise ConfigError(name, what, TODO)


def _asked(part: Saved) -> set[tuple[Any, ...]]:
    """Give what was attacked and asked at one of a part's seeds, or more."""
    rows = part.outcomes.select(ASKED).group_by(ASKED).aggregate([])
    return set(zip(*(rows[name].to_pylist() for name in ASKED), strict=True))


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


def _decided(lineups: pa.Table, seeds: Sequence[int]) -> pa.Table:
    """Give the line-ups with `inert` and `undecided` as all seeds together say.

    What a part could not decide for another reason than its few seeds stays undecided.
    """
    import pyarrow as pa

    rows = lineups.to_pylist()
    for name in dict.fromkeys(row["lineup"] for row in rows):
        own = [row for row in rows if row["lineup"] == name]
        if not own[0].get("signal") or {row.get("undecided") or "" for row in own} - {"", FEW}:
            continue
        values, beside = (
            {row["seed"]: row[key] for row in own if row.get(key) is not None}
            for key in ("measured", "beside")
        )
        why = unknown(seeds, values, beside)
        inert = None if why else not acted([*values.values()], [*beside.values()], own[0]["moves"])
        for row in own:
            row.update(inert=inert, undecided=why)
    return pa.Table.from_pylist(rows, schema=lineups.schema)
