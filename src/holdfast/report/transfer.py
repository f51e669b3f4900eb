"""Harm where an attacker keeps to some categories: on the prompts of those alone, as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigError
from holdfast.report.markdown import Table
from holdfast.stats.choices import crossing
from holdfast.stats.estimates import Rate, rate

if TYPE_CHECKING:
    from holdfast.report.tables import Tabled


@dataclass(frozen=True, slots=True)
class Cell:
    """One line-up under one attacker: `own` says whether the defence saw the attacked category.

    None where it saw all categories, or there is no defence.
    """

    lineup: str
    attacker: str
    categories: tuple[str, ...]
    method: str
    own: bool | None


def transfer(study: Tabled) -> list[Table]:
    """Harm on the prompts of the categories that an attacker keeps to, by budget.

    In a cell: percent over seeds with its 95 % interval over things asked about. The last tables
    say, by seed, between which budgets harm passes the threshold, and pool the line-ups of a method
    by whether the defence saw the attacked category.
    """
    cells = list(_cells(study))
    of = {(cell.lineup, cell.attacker): cell for cell in cells}
    names = list(dict.fromkeys(cell.lineup for cell in cells))
    attackers = list(dict.fromkeys(cell.attacker for cell in cells))
    found = []
    for budget in _budgets(study, attackers):
        rows = [
            [name, *(_spelt(_rate([of[name, a]], study, budget)) for a in attackers)]
            for name in names
        ]
        title = f"after {budget:g} examples" if budget else "as released"
        found.append(Table(["line-up", *attackers], rows, title))
    broke = [[name, *(_breaks(of[name, a], study, attackers) for a in attackers)] for name in names]
    title = f"passes {100 * study.threshold:g} % between, by seed"
    found.append(Table(["line-up", *attackers], broke, title))
    return [*found, _pooled(study, cells, attackers)]


def whole(categories: object) -> bool:
    """Say whether this is what a study says of its categories; nothing is what older ones say."""
    if not categories:
        return True
    if not isinstance(categories, Mapping):
        return False
    lineups, attacks = categories.get("lineups"), categories.get("attacks")
    if not isinstance(lineups, Mapping) or not isinstance(attacks, Mapping):
        return False
    both = [one for one in lineups.values() if isinstance(one, Mapping)]
    return (
        len(both) == len(lineups)
        and all(isinstance(one.get("method"), str) for one in both)
        and all(_texts(one.get("categories")) for one in both)
        and all(_texts(words) for words in attacks.values())
    )


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _cells(study: Tabled) -> Iterator[Cell]:
    told: Mapping[str, Any] = study.saved.meta.get("categories") or {}
    attackers, lineups = told.get("attacks") or {}, told.get("lineups") or {}
    if not attackers:
        raise ConfigError("transfer", "no attack of this study keeps to categories", "leave it out")
    for name in study.names:
        about: dict[str, Any] = {"method": "none", "categories": []} | lineups.get(name, {})
        seen = about["categories"]
        for attacker, categories in attackers.items():
            own = None if not seen else set(categories) <= set(seen)
            yield Cell(name, attacker, tuple(categories), about["method"], own)


def _budgets(study: Tabled, attackers: Sequence[str]) -> list[float]:
    return study.outcomes.distinct("budget", study.outcomes.where(attack=attackers))


def _rate(cells: Iterable[Cell], study: Tabled, budget: float, seed: int | None = None) -> Rate:
    """Give the share of harmful answers in some cells, clustered by what is asked about."""
    import numpy as np

    table = study.outcomes
    asked = table.where(
        side=study.side, judge=study.meta.judges[0], set=study.meta.headline, budget=budget
    )
    if seed is not None:
        asked &= table.where(seed=seed)
    here = np.zeros(table.n, bool)
    for cell in cells:
        here |= table.where(
            lineup=cell.lineup, attack=cell.attacker, category=list(cell.categories)
        )
    here &= asked & table.judged
    harmful = table.is_("outcome", "harmful_useful")[here]
    return rate(harmful, np.ones(len(harmful)), cluster=table.codes["group"][here])


def _spelt(one: Rate) -> str:
    if one.value is None:
        return "-"
    return f"{100 * one.value:.0f} ({100 * one.low:.0f}-{100 * one.high:.0f})"


def _breaks(cell: Cell, study: Tabled, attackers: Sequence[str]) -> str:
    """Say between which budgets harm passes the threshold, a seed after another."""
    each = []
    for seed in study.seeds:
        rates = [(b, _rate([cell], study, b, seed).value) for b in _budgets(study, attackers)]
        at, before = crossing([(b, v) for b, v in rates if v is not None], study.threshold)
        each.append("0" if not at else f"> {before:g}" if math.isinf(at) else f"{before:g}-{at:g}")
    return ", ".join(each)


def _pooled(study: Tabled, cells: Sequence[Cell], attackers: Sequence[str]) -> Table:
    """Pool the cells of each method by what its defence saw; seeds' shares stand behind."""
    words = {None: "all categories", True: "the attacked one alone", False: "another one alone"}
    budgets, rows = _budgets(study, attackers), []
    for method in dict.fromkeys(cell.method for cell in cells):
        for own in (None, True, False):
            some = [cell for cell in cells if (cell.method, cell.own) == (method, own)]
            if not some:
                continue
            seen = "nothing" if method == "none" else words[own]
            rows.append([method, seen, *(_with_seeds(some, study, budget) for budget in budgets)])
    heads = ["method", "saw", *(f"at {b:g}" if b else "released" for b in budgets)]
    return Table(heads, rows, "all attackers together (behind: by seed)")


def _with_seeds(cells: Sequence[Cell], study: Tabled, budget: float) -> str:
    seeds = (_rate(cells, study, budget, seed).value for seed in study.seeds)
    each = ", ".join("-" if value is None else f"{100 * value:.0f}" for value in seeds)
    return f"{_spelt(_rate(cells, study, budget))} [{each}]"
