"""The panel of judges in words and as plain data: agreement, and what changes with the judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from holdfast.report import text
from holdfast.report.costs import cost_values
from holdfast.report.names import SHOWN, listed
from holdfast.report.prices import price
from holdfast.stats.agreement import Agreement, Coefficient
from holdfast.stats.cost import Cost
from holdfast.stats.records import Change, Difference, Findings, Flip, Reading


def warnings(found: Findings) -> list[str]:
    """Say all that changes with the judge: the verdict first, then the order by harmful rate."""
    return [*changes(found), *_open(found), *_orders(found)]


def changes(found: Findings) -> list[str]:
    """Say where the verdict changes with the judge beyond noise: what is broken, who is ahead."""
    said = []
    for first, one in _readings(found):
        told = [_change(c, first, one.judge) for c in one.changes if c.decided]
        told += _claims(one, first)
        if told:
            said.append(f"The verdict changes with the judge: {_some(told)}.")
    return said


def _open(found: Findings) -> list[str]:
    """Say where judges differ on what is broken, by no more than resampled prompts do."""
    said = []
    for first, one in _readings(found):
        told = [_change(c, first, one.judge) for c in one.changes if not c.decided]
        if told:
            said.append(
                "Whether the verdict changes with the judge is not decided, for the intervals"
                f" meet: {_some(told)}."
            )
    return said


def _readings(found: Findings) -> list[tuple[str, Reading]]:
    """Give each other judge's reading beside the first judge's name."""
    panel = found.panel
    return [] if panel is None else [(panel.judges[0], one) for one in panel.readings]


def _some(told: list[str]) -> str:
    """Join the first few, and count the others."""
    more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return f"{'; '.join(told[:SHOWN])}{more}"


def _change(change: Change, first: str, other: str) -> str:
    own, theirs = price(change.first), price(change.other)
    return f"{listed([change.lineup])} costs {own} by {first} and {theirs} by {other}"


def _claims(one: Reading, first: str) -> list[str]:
    """Say which claims of the first judge another turns round or does not make, and its own."""
    words = (
        (one.reversed, f"costs more by {first}, and less by {one.judge}"),
        (one.lost, f"is claimed to cost more by {first}, and not by {one.judge}"),
        (one.gained, f"is claimed to cost more by {one.judge}, and not by {first}"),
    )
    return [
        f"{listed([costlier])} beside {listed([cheaper])} {what}"
        for pairs, what in words
        for costlier, cheaper in pairs
    ]


def _orders(found: Findings) -> list[str]:
    """Say which line-ups two judges put in opposite orders, and which only seem so."""
    said = []
    for first, one in _readings(found):
        for decided, what in (
            (True, "By harmful rate the order flips between judges"),
            (False, "By harmful rate the order is not decided, for an interval holds 0"),
        ):
            told = [_flip(f, first, one.judge) for f in one.flips if f.decided is decided]
            if told:
                said.append(f"{what}: {_some(told)}.")
    return said


def _flip(flip: Flip, first: str, other: str) -> str:
    return (
        f"{listed([flip.left])} less {listed([flip.right])} is {_points(flip.first)} by"
        f" {first} and {_points(flip.other)} by {other}"
    )


def _points(one: Difference) -> str:
    ends = f"{text.points(one.low)} to {text.points(one.high)}"
    return f"{text.points(one.value)} points ({ends})"


def coefficient(one: Coefficient) -> str:
    """Spell a coefficient with its interval: `0.81 (0.74 to 0.88)`; an en dash where unknown."""
    if one.value is None:
        return "–"
    said = _signed(one.value)
    if one.low is None or one.high is None:
        return said
    return f"{said} ({_signed(one.low)} to {_signed(one.high)})"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def agreement_values(one: Agreement) -> dict[str, Any]:
    """Give how two judges agree as plain values."""
    return {
        "judges": [one.left, one.right],
        "n": one.n,
        "clusters": one.clusters,
        "unscored": list(one.unscored),
        "unscored_by_both": one.neither,
        "same": one.same,
        "kappa_harm": coefficient_values(one.harm),
        "kappa_outcome": coefficient_values(one.outcome),
        "scored": one.scored,
        "spearman": coefficient_values(one.scores),
    }


def coefficient_values(one: Coefficient) -> dict[str, float | None]:
    """Give a coefficient as plain values."""
    return {"value": one.value, "low": one.low, "high": one.high}


def panel_values(found: Findings) -> dict[str, Any] | None:
    """Give the panel as plain data; None where one judge read the answers."""
    panel = found.panel
    if panel is None:
        return None
    return {
        "judges": list(panel.judges),
        "answers": panel.answers,
        "clusters": panel.clusters,
        "unscored": dict(panel.unscored),
        "agreements": [agreement_values(one) for one in panel.agreements],
        "alpha_harm": coefficient_values(panel.alpha_harm),
        "alpha_outcome": coefficient_values(panel.alpha_outcome),
        "readings": [_reading_values(one) for one in panel.readings],
    }


def _reading_values(one: Reading) -> dict[str, Any]:
    return {
        "judge": one.judge,
        "harm": {name: {"first": a, "other": b} for name, (a, b) in one.rates.items()},
        "flips": [
            {
                "lineups": [flip.left, flip.right],
                "decided": flip.decided,
                "first": _difference(flip.first),
                "other": _difference(flip.other),
            }
            for flip in one.flips
        ],
        "costs": {name: _costs(costs) for name, costs in one.costs.items()},
        "changes": [
            {"lineup": change.lineup, "seeds": list(change.seeds), "decided": change.decided}
            for change in one.changes
        ],
        "claims": {
            what: [{"costlier": a, "cheaper": b} for a, b in pairs]
            for what, pairs in (
                ("reversed", one.reversed), ("lost", one.lost), ("gained", one.gained),
            )
        },
    }  # fmt: skip


def _difference(one: Difference) -> dict[str, float]:
    return {"value": one.value, "low": one.low, "high": one.high}


def _costs(costs: Mapping[int, Cost]) -> dict[str, Any]:
    high = max(c.high for c in costs.values())
    return {
        "text": price(costs),
        "low": min(c.low for c in costs.values()),
        "high": high if math.isfinite(high) else None,
        "seeds": {str(seed): cost_values(c) for seed, c in costs.items()},
    }
