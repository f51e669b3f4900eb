"""Whether a method did its own thing: its diagnostic beside that of plain refusal fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

LEAST_SEEDS = 2
"""Fewer values than this have no range."""
FEW = "one seed has no range"
"""Why fewer decide nothing."""


def acted(values: Sequence[float], beside: Sequence[float], moves: Literal["up", "down"]) -> bool:
    """Say whether every value lies outside the other range, on its side, by that range's width.

    A range of width 0 must still be left. Source: ours, docs/studies.md.

    Args:
        values: the method's diagnostic, one a seed.
        beside: the same diagnostic of plain refusal fine-tuning, one a seed.
        moves: on which side of the range they must lie.
    """
    low, high = min(beside), max(beside)
    gaps = [value - high if moves == "up" else low - value for value in values]
    return all(gap > 0 and gap >= high - low for gap in gaps)


def unknown(seeds: Sequence[int], values: Mapping[int, float], beside: Mapping[int, float]) -> str:
    """Say why values by seed decide nothing; empty where they do."""
    if len(seeds) < LEAST_SEEDS:
        return FEW
    for whose in (values, beside):
        for seed in seeds:
            if seed not in whose:
                return f"nothing to measure it on at seed {seed}"
            if not math.isfinite(whose[seed]):
                return f"not a number at seed {seed}"
    return ""
