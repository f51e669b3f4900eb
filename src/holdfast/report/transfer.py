"""Harm where an attacker keeps to some categories: on the prompts of those alone, as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.errors import ConfigError
from holdfast.report.markdown import Table, percent
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
    answers = _Answers(study)
    of = {(cell.lineup, cell.attacker): cell for cell in answers.cells}
    names, attackers = (list(dict.fromkeys(some)) for some in zip(*of, strict=True))
    found = []
    for budget in answers.budgets:
        rows = [
            [name, *(_spelt(answers.rate([of[name, a]], budget)) for a in attackers)]
            for name in names
        ]
        title = f"after {budget:g} examples" if budget else "as released"
        found.append(Table(["line-up", *attackers], rows, title))
    broke = [[name, *(_breaks(of[name, a], answers) for a in attackers)] for name in names]
    title = f"passes {100 * study.threshold:g} % between, by seed"
    found.append(Table(["line-up", *attackers], broke, title))
    return [*found, _pooled(answers)]


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


class _Answers:
    """The judged answers to prompts of the categories that each attacker keeps to."""

    def __init__(self, study: Tabled) -> None:
        self.study, self.cells = study, list(_cells(study))
        table = study.outcomes
        asked = table.judged & table.where(
            side=study.side, judge=study.meta.judges[0], set=study.meta.headline
        )
        own = np.zeros(table.n, bool)
        for attacker, categories in {cell.attacker: cell.categories for cell in self.cells}.items():
            own |= table.where(attack=attacker, category=categories)
        self._rows = np.flatnonzero(asked & own)
        self._harmful = table.counted[self._rows]
        self.budgets: list[float] = np.unique(table.numbers["budget"][self._rows]).tolist()

    def rate(self, cells: Iterable[Cell], budget: float, seed: int | None = None) -> Rate:
        """Give the share of harmful answers in some cells, clustered by what is asked about."""
        table = self.study.outcomes
        here = table.numbers["budget"][self._rows] == budget
        if seed is not None:
            here &= table.numbers["seed"][self._rows] == seed
        some = np.zeros(len(self._rows), bool)
        for cell in cells:
            lineup = table.codes["lineup"][self._rows] == table.code("lineup", cell.lineup)
            attack = table.codes["attack"][self._rows] == table.code("attack", cell.attacker)
            some |= lineup & attack
        here &= some
        group = table.codes["group"][self._rows][here]
        return rate(self._harmful[here], np.ones(len(group)), cluster=group)

    def seeds(self, cells: Sequence[Cell], budget: float) -> list[float | None]:
        """Give each seed's share."""
        return [self.rate(cells, budget, seed).value for seed in self.study.seeds]


def _spelt(one: Rate) -> str:
    if one.value is None:
        return "-"
    return f"{100 * one.value:.0f} ({100 * one.low:.0f}-{100 * one.high:.0f})"


def _breaks(cell: Cell, answers: _Answers) -> str:
    """Say between which budgets harm passes the threshold, a seed after another."""
    each = []
    for seed in answers.study.seeds:
        rates = [(b, answers.rate([cell], b, seed).value) for b in answers.budgets]
        known = [(b, value) for b, value in rates if value is not None]
        at, before = crossing(known, answers.study.threshold)
        each.append("0" if not at else f"> {before:g}" if math.isinf(at) else f"{before:g}-{at:g}")
    return ", ".join(each)


def _pooled(answers: _Answers) -> Table:
    """Pool the cells of each method by what its defence saw; seeds' shares stand behind."""
    words = {None: "all categories", True: "the attacked one alone", False: "another one alone"}
    rows = []
    for method in dict.fromkeys(cell.method for cell in answers.cells):
        for own, seen in words.items():
            some = [cell for cell in answers.cells if (cell.method, cell.own) == (method, own)]
            if some:
                shown = [
                    f"{_spelt(answers.rate(some, b))} [{percent(answers.seeds(some, b))}]"
                    for b in answers.budgets
                ]
                rows.append([method, "nothing" if method == "none" else seen, *shown])
    heads = ["method", "saw", *(f"at {b:g}" if b else "released" for b in answers.budgets)]
    return Table(heads, rows, "all attackers together (behind: by seed)")
