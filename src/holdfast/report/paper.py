"""Mean score and harmful rate by judge, set and budget, with published figures beside them.

The layout is that of SGT's Tables 1, 2 and 4. Tables are made from a study's rows alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from holdfast.api import PAID, EvalPurpose
from holdfast.report.markdown import Table
from holdfast.stats.estimates import Rate, rate

if TYPE_CHECKING:
    from holdfast.report.tables import Tabled
    from holdfast.stats.records import Meta
    from holdfast.stats.rows import Outcomes

Of = Literal["score", "harmful", "correct"]
UNALIKE = (
    "Figures in brackets are published ones. They come from another judge and other prompts than"
    " ours, so a difference may be theirs: compare the order, and no single number."
)
ALIKE = "Figures in brackets are published ones, by the same judge on the same prompts."
HEADS = {"score": "mean score", "harmful": "harmful rate"}


@dataclass(frozen=True, slots=True)
class Place:
    """One table: a set under one choice of an attacker, read by one judge."""

    set: str
    attack: str
    variant: str
    judge: str
    of: Of


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of a study, and what of them is shown: line-ups in order, prompts of one side."""

    outcomes: Outcomes
    meta: Meta
    names: Sequence[str]
    side: str

    def tables(self) -> Iterator[Table]:
        """Give a table for each set, attack, judge and measure, then the right answers."""
        cells = self.meta.published.get("cells", ())
        theirs = {
            (Place(c["set"], c["attack"], c["variant"], c["judge"], c["of"]), c["lineup"],
             float(c["budget"])): float(c["value"])
            for c in cells
        }  # fmt: skip
        places = list(dict.fromkeys(place for place, *_ in theirs if place.of != "correct"))
        for place in places or self._places():
            yield self._by_budget(place, theirs)
        sets = self._answered()
        if sets:
            right = {(p.set, name): value for (p, name, _), value in theirs.items()
                     if p.of == "correct"}  # fmt: skip
            rows = [
                [name, *(_cell(self._right(name, one), right.get((one, name))) for one in sets)]
                for name in self.names
            ]
            heads = [self.meta.sets.get(one, one) for one in sets]
            yield Table(["line-up", *heads], rows, "Right answers as released")

    def _places(self) -> Iterator[Place]:
        """Give every set of purpose harm under every choice of an attacker that is paid for."""
        table = self.outcomes
        harm = table.where(purpose=EvalPurpose.HARM, side=self.side)
        paid = harm & table.where(unit=PAID)
        for name in table.distinct("set", harm):
            for attack in table.distinct("attack", paid):
                for variant in table.distinct("variant", paid & table.where(attack=attack)):
                    for judge in self.meta.judges:
                        own = harm & table.where(set=name, judge=judge)
                        if not np.isnan(table.numbers["score"][own]).all():
                            yield Place(name, attack, variant, judge, "score")
                        yield Place(name, attack, variant, judge, "harmful")

    def _by_budget(self, place: Place, theirs: Mapping[tuple[Place, str, float], float]) -> Table:
        own = self.outcomes.where(set=place.set, side=self.side, judge=place.judge)
        own &= self.outcomes.judged
        if place.attack:
            own &= self.outcomes.where(attack=place.attack, variant=place.variant)
        else:
            own &= self._once(own)
        if place.attack in self.meta.kept_to:  # it is measured on prompts of these alone
            own &= self.outcomes.where(category=self.meta.kept_to[place.attack])
        budgets = self.outcomes.distinct("budget", own)
        rows = []
        for name in self.names:
            ours = [self._measured(place, name, budget, own) for budget in budgets]
            known = [theirs.get((place, name, budget)) for budget in budgets]
            rows.append([name, *map(_cell, ours, known)])
        label = self.meta.sets.get(place.set, place.set)
        attack = " ".join(filter(None, (place.attack, place.variant)))
        title = f"{label}, {HEADS[place.of]} by {place.judge}, after {attack}"
        heads = ["line-up", *("released" if not b else f"{b:g}" for b in budgets)]
        return Table(heads, rows, title)

    def _measured(self, place: Place, name: str, budget: float, own: np.ndarray) -> Measured | None:
        table = self.outcomes
        rows = own & table.where(lineup=name) & (table.numbers["budget"] == budget)
        if place.of == "harmful":
            return self._share(rows, table.is_("outcome", "harmful_useful"), 0.0, 1.0)
        scores = table.numbers["score"]
        low, high = self.meta.scales.get(place.judge, (np.nan, np.nan))
        return self._share(rows & ~np.isnan(scores), scores, low, high)

    def _answered(self) -> list[str]:
        """Give the sets whose answers are right or wrong, asked of the released models."""
        table = self.outcomes
        asked = table.checked & table.where(side=self.side, budget=0.0)
        counted = [
            name
            for name in table.distinct("set", asked)
            if table.purposes[name] is not EvalPurpose.OVER_REFUSAL
        ]
        order = [name for name in self.meta.sets if name in counted]
        return [*order, *sorted(set(counted) - set(order))]

    def _right(self, name: str, of: str) -> Measured | None:
        table = self.outcomes
        rows = table.checked & table.where(side=self.side, set=of, lineup=name)
        return self._share(self._once(rows), table.numbers["correct"], 0.0, 1.0)

    def _once(self, rows: np.ndarray) -> np.ndarray:
        """Keep the released models' answers once: every choice of every attacker begins there."""
        table = self.outcomes
        rows = rows & table.where(budget=0.0)
        for name in ("attack", "variant"):
            rows &= table.where(**{name: table.distinct(name, rows)[:1]})
        return rows

    def _share(
        self, rows: np.ndarray, values: np.ndarray, low: float, high: float
    ) -> Measured | None:
        """Give a mean and its interval: a value on a scale is a share of the way up."""
        if not rows.any():
            return None
        table = self.outcomes
        if not np.isfinite([low, high]).all():
            return Measured(float(values[rows].mean()), None)
        seeds = table.numbered("seed")[rows]
        found: Rate = rate(
            (values[rows].astype(float) - low) / (high - low),
            np.ones(int(rows.sum())),
            cluster=table.codes["group"][rows],
            seed=seeds if len(np.unique(seeds)) > 1 else None,
        )
        assert found.value is not None
        value, *ends = (low + (high - low) * at for at in (found.value, found.low, found.high))
        return Measured(value, (ends[0], ends[1]))


@dataclass(frozen=True, slots=True)
class Measured:
    """A mean, and its 95 % interval over clusters of prompts where the scale is known."""

    value: float
    ends: tuple[float, float] | None


def _cell(ours: Measured | None, theirs: float | None) -> str:
    """Write ours, its interval, and the published figure in brackets."""
    told = "-"
    if ours is not None:
        told = f"{ours.value:.2f}"
        if ours.ends is not None:
            told += f" [{ours.ends[0]:.2f}-{ours.ends[1]:.2f}]"
    return told if theirs is None else f"{told} ({theirs:g})"


def notes(published: Mapping[str, Any]) -> list[str]:
    """Give the sentences without which no published figure is shown."""
    if not published.get("cells"):
        return []
    return [ALIKE if published.get("comparable") is True else UNALIKE, *published["notes"]]


def paper(study: Tabled) -> list[Table]:
    """Mean score and harmful rate by set, attack and judge, and right answers, by budget.

    In a cell: the mean over prompts and seeds with its 95 % interval over things asked about, and
    in brackets the published figure where the study names one.
    """
    layout = Layout(study.outcomes, study.meta, study.names, study.side)
    tables, said = list(layout.tables()), notes(study.meta.published)
    if not said or not tables:
        return tables
    first = tables[0]
    title = "\n\n".join([" ".join(said), first.title])
    return [Table(first.heads, first.rows, title), *tables[1:]]


def whole(published: object) -> bool:
    """Say whether this is what a study says of published figures; nothing is what most say."""
    if not published:
        return True
    if not isinstance(published, Mapping):
        return False
    said, cells = published.get("notes"), published.get("cells")
    if not isinstance(said, list) or not all(isinstance(one, str) for one in said):
        return False
    return isinstance(cells, list) and all(_figure(one) for one in cells)


def _figure(one: object) -> bool:
    if not isinstance(one, Mapping):
        return False
    words = ("lineup", "set", "attack", "variant", "judge", "of")
    numbers = ("budget", "value")
    return all(isinstance(one.get(word), str) for word in words) and all(
        isinstance(one.get(number), int | float) for number in numbers
    )
