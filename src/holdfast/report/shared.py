"""What the sides of a study share, as cells of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.report import text

ENDS = 60
"""Characters of a row's place that are shown, its last ones: a line of a file, or a whole id."""


def cells(leakage: Mapping[str, Any]) -> Iterator[list[str]]:
    """Give a row for every two groups: both names, prompts, equal and near ones, an example."""
    for pair in leakage.get("pairs", ()):
        near = pair["near"]
        example = " and ".join(one[-ENDS:] for one in pair["rows"][0]) if pair["rows"] else "–"
        yield [
            pair["first"],
            pair["second"],
            text.number(leakage["prompts"][pair["first"]]),
            text.number(pair["exact"]),
            "–" if near is None else text.number(near),
            example,
        ]


def whole(leakage: object) -> bool:
    """Say whether this is what a study says of its sides; nothing at all is what older ones say."""
    if leakage is None:
        return True
    if not isinstance(leakage, Mapping):
        return False
    prompts, pairs = leakage.get("prompts"), leakage.get("pairs")
    if not isinstance(leakage.get("threshold"), float) or not isinstance(pairs, list):
        return False
    if not isinstance(leakage.get("dropped", ""), str):
        return False
    known = isinstance(prompts, Mapping) and all(_count(n) for n in prompts.values())
    return known and all(_pair(one, prompts) for one in pairs)


def _pair(one: object, prompts: Mapping[str, int]) -> bool:
    if not isinstance(one, Mapping):
        return False
    sides = [one.get("first"), one.get("second")]
    if not all(isinstance(side, str) and side in prompts for side in sides):
        return False
    near, rows = one.get("near", "missing"), one.get("rows")
    if not _count(one.get("exact")) or not (near is None or _count(near)):
        return False
    return isinstance(rows, list) and all(
        isinstance(both, list) and len(both) == 2 and all(isinstance(x, str) for x in both)
        for both in rows
    )


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
