"""What a study's analysis shows: states in a plane, and how much of their geometry is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from holdfast.report import figures, text

if TYPE_CHECKING:
    import pyarrow as pa
    from markupsafe import Markup

Row = Mapping[str, Any]

COLUMNS: dict[str, str] = {
    "lineup": "str", "attack": "str", "variant": "str", "seed": "int", "budget": "float",
    "unit": "str", "layer": "int", "depth": "int", "prompts": "int", "k": "int", "cka": "float",
    "knn": "float", "knn_chance": "float", "drift": "float",
}  # fmt: skip
"""Columns of the analysis table: one row per line-up, seed, budget and block."""

SCATTER_COLUMNS: dict[str, str] = {
    "lineup": "str", "attack": "str", "variant": "str", "seed": "int", "budget": "float",
    "unit": "str", "layer": "int", "depth": "int", "state": "str", "uid": "str", "x": "float",
    "y": "float", "share_x": "float", "share_y": "float",
}  # fmt: skip
"""Columns of the points in the plane: one row per line-up, seed, state and prompt."""

STATES = {
    "undefended": "the undefended model", "goal": "what its defence trains towards",
    "released": "as released", "attacked": "after the attack",
}  # fmt: skip
MEASURES = {"cka": "Linear CKA", "knn": "k-NN overlap"}


def gather(
    analysis: Iterable[Row] | pa.Table, scatter: Iterable[Row] | pa.Table, order: Sequence[str]
) -> dict[str, Any] | None:
    """Gather what the template shows of an analysis; None without one.

    `order` are the report's line-ups, so that each keeps its colour, marker and dash where they
    tell these line-ups apart.
    """
    rows, points = _plain(analysis), _plain(scatter)
    rows = [row for row in rows if row["lineup"] in order]
    if not rows:
        return None
    first = rows[0]
    names = list(dict.fromkeys(row["lineup"] for row in rows))
    if not figures.distinct(names, order):
        order = names  # a report of many line-ups repeats its styles; up to eight need not here
    attack = f"{first['attack']} {first['variant']}".strip()
    deepest = {name: max(r["layer"] for r in rows if r["lineup"] == name) for name in names}
    budgets = sorted({row["budget"] for row in rows})
    return {
        "about": (
            f"The states of {first['prompts']} restricted prompts at the token that begins the "
            f"answer, before and after {text.harmless(attack, 80)}; after Shin et al.'s figures 6 "
            "and 7."
        ),
        "note": (
            "They describe where states lie and do not say whether a model is safe: one whose "
            "states hardly move may answer all the same. CKA does not see states that move, turn "
            f"or grow together (drift does), and with as few prompts as {first['prompts']} it is "
            "well above 0 even between unrelated states; "
            f"k-NN overlap is {first['knn_chance']:.2f} by chance (k = {first['k']}). A plane "
            "shows two directions of many, their share is on its axes, and each panel has axes of "
            "its own, so panels compare in shape and not in size."
        ),
        "samples": {name: _safe(figures.key(order.index(name))) for name in names},
        "unit": first["unit"],
        "budgets": budgets,
        "states": [
            {"key": _safe(figures.cloud_key(name)), "words": words}
            for name, words in STATES.items()
            if any(point["state"] == name for point in points)
        ],
        "clouds": [_cloud(name, i, points) for i, name in enumerate(names)],
        "curves": list(_curves(rows, order, attack, deepest)),
        "table": [
            {
                "name": name,
                "measure": words,
                "cells": [_cell(rows, name, measure, deepest[name], b) for b in budgets],
            }
            for name in names
            for measure, words in (MEASURES | {"drift": "Drift"}).items()
        ],
    }


def _plain(rows: Iterable[Row] | pa.Table) -> list[Row]:
    listed = getattr(rows, "to_pylist", None)
    return listed() if listed is not None else list(rows)


def _safe(svg: str) -> Markup:
    from markupsafe import Markup

    return Markup(svg)


def _cloud(name: str, number: int, points: Sequence[Row]) -> dict[str, Any]:
    """Draw one line-up's plane, of its first seed."""
    own = [point for point in points if point["lineup"] == name]
    seed = min(point["seed"] for point in own)
    own = [point for point in own if point["seed"] == seed]
    sets = {
        state: [(point["x"], point["y"]) for point in own if point["state"] == state]
        for state in STATES
        if any(point["state"] == state for point in own)
    }
    budget = max(point["budget"] for point in own)
    shares = (own[0]["share_x"], own[0]["share_y"])
    told = ", ".join(STATES[state] for state in sets)
    label = (
        f"States of {text.harmless(name, 60)} in the plane of their two largest axes: {told}; "
        f"middles at {_middles(sets)}"
    )
    caption = (
        f"Block {own[0]['layer']} of {own[0]['depth']}, seed {seed}; triangles: after "
        f"{text.spent(budget, own[0]['unit'])}."
    )
    svg = figures.clouds(sets, shares, label=label, prefix=f"cloud{number}")
    return {"title": name, "svg": _safe(svg), "caption": caption}


def _middles(sets: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Spell where each set's middle lies, for those who cannot see it."""
    return ", ".join(
        f"({fmean(x for x, _ in at):.2g}, {fmean(y for _, y in at):.2g})" for at in sets.values()
    )


def _curves(
    rows: Sequence[Row], order: Sequence[str], attack: str, deepest: Mapping[str, int]
) -> Iterable[dict[str, Any]]:
    """Draw each measure by budget at the deepest block, and by block at the largest budget."""
    first, last = rows[0], max(row["budget"] for row in rows)
    deep = [row for row in rows if row["layer"] == deepest[row["lineup"]]]
    views = [("budget", first["unit"], deep, "at the deepest block")]
    if len({row["layer"] for row in rows}) > 1:
        spent = [row for row in rows if row["budget"] == last]
        views.append(("layer", "block", spent, f"at {text.spent(last, first['unit'])}"))
    for by, unit, some, where in views:
        for measure, title in MEASURES.items():
            lines = _lines(some, measure, by)
            chance = first["knn_chance"] if measure == "knn" else None
            axis = "block" if by == "layer" else by
            said = f"{title} with the release by {axis}, {where}, under {text.harmless(attack, 80)}"
            caption = f"{said}: mean over seeds; small rings are seeds."
            if chance is not None:
                caption += " Dotted: what chance alone would keep."
            ends = "; ".join(f"{text.harmless(o.name, 60)} {o.values[-1]:.2f}" for o in lines)
            svg = figures.profile(
                lines, order, unit=unit, chance=chance, ylabel=title,
                label=f"{said}. Last values: {ends}", prefix=f"{measure}-by-{axis}",
            )  # fmt: skip
            yield {"svg": _safe(svg), "caption": caption}


def _lines(rows: Sequence[Row], measure: str, by: str) -> list[figures.Line]:
    """Give a curve per line-up: the seeds' mean and every seed's own value."""
    lines = []
    for name in dict.fromkeys(row["lineup"] for row in rows):
        own = [row for row in rows if row["lineup"] == name]
        places = sorted({row[by] for row in own})
        means = [fmean(row[measure] for row in own if row[by] == place) for place in places]
        several = len({row["seed"] for row in own}) > 1
        seeds = [(row[by], row[measure]) for row in own] if several else []
        lines.append(figures.Line(name, places, means, means, means, seeds))
    return lines


def _cell(
    rows: Sequence[Row], name: str, measure: str, layer: int, budget: float
) -> tuple[str, str] | None:
    """Give one measure of one line-up at one budget: the mean, and the seeds' range."""
    here = (name, layer, budget)
    own = [row for row in rows if (row["lineup"], row["layer"], row["budget"]) == here]
    values = [row[measure] for row in own if row[measure] is not None]
    if not values:
        return None
    few = len(values) < 2
    return _two(fmean(values)), "" if few else f"{_two(min(values))}–{_two(max(values))}"


def _two(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "∞"
