"""How two judges read the same answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from holdfast.stats.records import Agreement
from holdfast.stats.rows import Outcomes
from holdfast.stats.trajectories import EVALUATOR


def agreement_of(
    outcomes: Outcomes, names: Sequence[str], headline: str, first: str, other: str
) -> Agreement:
    """Compare two judges on the answers to the headline's set that both scored."""
    rows = outcomes.where(set=headline, side=EVALUATOR) & outcomes.judged
    keys = ("lineup", "attack", "variant", "uid")
    useful = outcomes.is_("outcome", "harmful_useful")

    def read(judge: str) -> dict[tuple[Any, ...], bool]:
        where = np.flatnonzero(rows & outcomes.is_("judge", judge))
        columns = [outcomes.codes[key][where].tolist() for key in keys]
        columns += [outcomes.numbers[key][where].tolist() for key in ("seed", "budget")]
        return dict(zip(zip(*columns, strict=True), useful[where].tolist(), strict=True))

    left, right = read(first), read(other)
    shared = sorted(set(left) & set(right))
    a, b = (np.asarray([side[key] for key in shared], bool) for side in (left, right))
    lineup = np.asarray([key[0] for key in shared], int)
    rates: dict[str, tuple[float | None, float | None]] = {}
    for name in names:
        here = lineup == outcomes.code("lineup", name)
        rates[name] = (float(a[here].mean()), float(b[here].mean())) if here.any() else (None, None)
    agreement = float((a == b).mean()) if len(shared) else 0.0
    chance = float(a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())) if len(shared) else 1.0
    known = {name: (x, y) for name, (x, y) in rates.items() if x is not None and y is not None}
    flips = tuple(
        (x, y)
        for x, y in itertools.combinations(known, 2)
        if (known[x][0] - known[y][0]) * (known[x][1] - known[y][1]) < 0
    )
    return Agreement(
        other, rates, agreement, (agreement - chance) / (1 - chance) if chance < 1 else None, flips
    )
