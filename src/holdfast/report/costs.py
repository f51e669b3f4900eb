"""The tables of costs and of free attacks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from holdfast.stats.cost import Cost
from holdfast.stats.records import Findings

COST_COLUMNS: dict[str, str] = {
    "lineup": "str", "access": "str", "threshold": "float", "seed": "int", "low": "float",
    "high": "float", "ci_low": "float", "ci_high": "float", "b_max": "float",
    "steps_low": "float", "steps_high": "float", "distinct_low": "float", "distinct_high": "float",
    "flops_low": "float", "flops_high": "float", "attack": "str", "chosen_on": "str",
    "at_release": "bool", "survived": "bool", "harm_alone_at": "float", "doubt": "str",
}  # fmt: skip
"""Columns of the table of costs: one row per line-up, threshold and seed. It broke in (low, high]
of examples; an empty `high` means past `b_max`, the most that was tried."""
FREE_COLUMNS: dict[str, str] = {
    "lineup": "str", "access": "str", "attack": "str", "seed": "int", "choice": "str",
    "budget": "float", "unit": "str", "chosen_on": "str", "harm": "float", "utility": "float",
    "degenerate": "float", "kept_use": "bool", "broken": "bool", "returns_original": "bool",
}  # fmt: skip
"""Columns of the table of free attacks: the choice taken against each line-up at each seed."""


def cost_rows(found: Findings) -> Iterator[dict[str, Any]]:
    """Give the table of costs."""
    for threat in found.threats:
        for threshold, by_lineup in threat.costs.items():
            for name, by_seed in by_lineup.items():
                for seed, c in by_seed.items():
                    yield {
                        "lineup": name, "access": threat.access, "threshold": threshold,
                        "seed": seed, **cost_values(c), "attack": c.candidate,
                    }  # fmt: skip


def cost_values(c: Cost) -> dict[str, Any]:
    """Give a cost as plain values; None for what is past the last budget."""
    ends = {
        "low": c.low, "high": c.high, "ci_low": c.ci_low, "ci_high": c.ci_high, "b_max": c.b_max,
        "steps_low": c.steps[0], "steps_high": c.steps[1],
        "distinct_low": c.distinct[0], "distinct_high": c.distinct[1],
        "flops_low": c.flops[0], "flops_high": c.flops[1], "harm_alone_at": c.past,
    }  # fmt: skip
    finite = {name: value if math.isfinite(value) else None for name, value in ends.items()}
    about = {"chosen_on": c.chosen_on, "at_release": c.at_release, "survived": c.survived}
    return {**finite, **about, "doubt": c.doubt}


def free_rows(found: Findings) -> Iterator[dict[str, Any]]:
    """Give the table of free attacks."""
    for threat in found.threats:
        for name, by_attack in threat.opened.items():
            for one in by_attack.values():
                for seed, taken in one.taken.items():
                    points = found.meta.original_at.get(one.attack, ())
                    yield {
                        "lineup": name, "access": threat.access, "attack": one.attack,
                        "seed": seed, "choice": taken.variant, "budget": taken.budget,
                        "unit": one.unit, "chosen_on": taken.chosen_on, "harm": taken.harm,
                        "utility": taken.utility, "degenerate": taken.degenerate,
                        "kept_use": taken.kept, "broken": taken.broken,
                        "returns_original": taken.budget in points,
                    }  # fmt: skip
