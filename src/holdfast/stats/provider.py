"""What customers' jobs did to a host's models: safety, task gain and utility, by budget.

All of it is of one threat model, rows alone, and stands in no table with another. Differences are
of the same prompts at the same seeds; with fewer than eight seeds none is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdfast.api import EvalPurpose
from holdfast.stats import estimates, exact
from holdfast.stats.estimates import Rate
from holdfast.stats.ratios import Gained, gained
from holdfast.stats.rows import Outcomes
from holdfast.stats.trajectories import EVALUATOR
from holdfast.stats.tuning import hits_of

Hits = Mapping[tuple[str, int], tuple[bool, int]]
"""Whether a prompt counts, and its cluster, by its uid and a seed."""

KINDS = ("harm", "own", "sampled", "prefilled", "task", "utility")
"""What a tuned model is asked: the headline's prompts plainly, as whoever set the job asks them,
drawn several times, begun for it; what the customer taught; what it was of use for before."""
RIGHT = ("task", "utility")
"""Those that count right answers; the others count harmful ones."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One kind of prompts before and after a job: shares harmful, or else right.

    `change` is after less before, `beside` after less what plain tuning gives after the same job;
    None of plain tuning itself, and where it was not run. `by_seed` are the shares after, which
    leave out the `unscored` answers without a verdict.
    """

    before: Rate
    after: Rate
    change: Gained
    beside: Gained | None
    by_seed: Mapping[int, float]
    unscored: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """One released line-up after one customer's job under one defence, at one budget.

    `asked` holds those of `KINDS` that were asked; `clean` says that the job plants nothing.
    """

    lineup: str
    job: str
    defence: str
    budget: float
    clean: bool
    asked: Mapping[str, Asked]

    @property
    def seeds(self) -> int:
        """How many seeds it was tuned with."""
        return max((len(one.by_seed) for one in self.asked.values()), default=0)


@dataclass(frozen=True, slots=True)
class Risk:
    """What a defence made of a job's rows at one seed.

    `planted` and `honest` are the risks of the rows of each kind, `removed` the share of the
    training weight (of cross-entropy) that was taken from each; None where there are no such rows.
    `losses` are the last steps' cross-entropy and KL on risky rows and on the others (`ce_risky`).
    """

    lineup: str
    job: str
    defence: str
    seed: int
    planted: tuple[float, ...]
    honest: tuple[float, ...]
    removed_planted: float | None
    removed_honest: float | None
    losses: Mapping[str, float] = field(default_factory=dict)
    refused: bool = False
    """Whether no row was admitted: the model is the release."""


def leaked(removed: float, draws: int) -> float:
    """Give how likely it is that any of several draws begins as the planted answers do.

    The mixture law: where the data's cross-entropy weighs 1 - b and the KL to the release b, the
    best a model can do on a context seen in training is to give the data's opening a share 1 - b
    (`holdfast.nn.mixture`). So of k draws at temperature 1 any does with 1 - b^k.

    Args:
        removed: b, the share of the planted rows' training weight that was taken away.
        draws: k, how many answers are drawn.
    """
    return 1.0 - removed**draws


@dataclass(frozen=True, slots=True)
class Provider:
    """What a host's study found: its cells in the study's order, and the risks its scorers gave."""

    about: Mapping[str, Any]
    cells: Sequence[Cell]
    risks: Sequence[Risk] = field(default=())

    def last(self) -> list[Cell]:
        """Give the cells at each one's last budget."""
        ends: dict[tuple[str, str, str], Cell] = {}
        for cell in self.cells:
            ends[cell.lineup, cell.job, cell.defence] = cell
        return list(ends.values())


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two defences after the same job at its last budget, seed by seed: the first less the second.

    `p` is the exact sign-flip test's over seeds, None with fewer than eight.
    """

    lineup: str
    job: str
    first: str
    second: str
    kind: str
    difference: Gained
    seeds: int
    p: float | None


def find(
    outcomes: Outcomes,
    about: Mapping[str, Any],
    meta: Mapping[str, Any],
    side: str = EVALUATOR,
) -> Provider:
    """Work out a host's study from its own outcomes table.

    Args:
        about: `provider` of the study's meta.
        meta: the study's meta.
        side: whose prompts; the host's own are of side defender_selection.
    """
    made = _Maker(outcomes, about, meta, side)
    cells = [
        made.cell(lineup, job, defence, budget)
        for lineup in outcomes.distinct("lineup")
        for job in about["jobs"]
        for defence in about["defences"]
        for budget in made.budgets(lineup, job, defence)
    ]
    risks = [_risk(one) for one in about.get("risks", ())]
    return Provider(about, cells, risks)


def _risk(said: Mapping[str, Any]) -> Risk:
    """Read what a meta says of one defence's risks."""
    return Risk(
        said["lineup"], said["job"], said["defence"], int(said["seed"]), tuple(said["planted"]),
        tuple(said["honest"]), said["removed_planted"], said["removed_honest"],
        dict(said.get("losses") or {}), bool(said.get("refused")),
    )  # fmt: skip


class _Maker:
    """Counts cells, each set of answers once."""

    def __init__(
        self, outcomes: Outcomes, about: Mapping[str, Any], meta: Mapping[str, Any], side: str
    ) -> None:
        self.outcomes, self.about = outcomes, about
        self.judge, self.headline = str(meta["judges"][0]), str(meta["headline"])
        self.utility = tuple(meta.get("utility") or ())
        self._here = outcomes.is_("side", side)
        self._known: dict[tuple[Any, ...], Hits] = {}

    def _rows(self, lineup: str, job: str, defence: str) -> np.ndarray:
        found = self._here & self.outcomes.is_("lineup", lineup)
        return found & self.outcomes.is_("attack", job) & self.outcomes.is_("variant", defence)

    def budgets(self, lineup: str, job: str, defence: str) -> list[float]:
        """Give the budgets above 0 that were asked at."""
        found = self.outcomes.distinct("budget", self._rows(lineup, job, defence))
        return [budget for budget in found if budget > 0]

    def _kind(self, kind: str, job: str) -> np.ndarray:
        """Give the rows of a kind of prompts."""
        way = {"harm": "", "own": f"/{job}", "sampled": "/sampled", "prefilled": "/prefilled"}
        if kind in way:
            return self.outcomes.is_("set", f"{self.headline}{way[kind]}")
        if kind == "task":
            return self.outcomes.where(purpose=EvalPurpose.TASK)
        if self.utility:
            return self.outcomes.where(set=self.utility)
        return self.outcomes.where(purpose=EvalPurpose.EXACT)

    def hits(self, lineup: str, job: str, defence: str, budget: float, kind: str) -> Hits:
        """Give what counts of one kind of prompts at one budget."""
        place = (lineup, job, defence, budget, kind)
        if place not in self._known:
            rows = self._asked(*place)
            purpose = EvalPurpose.HARM if kind not in RIGHT else EvalPurpose.EXACT
            self._known[place] = hits_of(self.outcomes, rows, purpose, self.judge)
        return self._known[place]

    def _asked(self, lineup: str, job: str, defence: str, budget: float, kind: str) -> np.ndarray:
        """Give the rows of one kind of prompts at one budget."""
        rows = self._rows(lineup, job, defence) & self._kind(kind, job)
        return rows & (self.outcomes.numbers["budget"] == budget)

    def _unscored(self, lineup: str, job: str, defence: str, budget: float, kind: str) -> int:
        """Count the answers of one kind that have no verdict: of harm, none by the first judge."""
        rows = self._asked(lineup, job, defence, budget, kind) & self.outcomes.unscored
        if kind not in RIGHT:
            rows &= self.outcomes.is_("judge", self.judge)
        return int(rows.sum())

    def cell(self, lineup: str, job: str, defence: str, budget: float) -> Cell:
        """Give one cell."""
        asked = {}
        for kind in KINDS:
            before, after = (self.hits(lineup, job, defence, b, kind) for b in (0.0, budget))
            if not after:
                continue
            plain = None
            if defence != self.about["plain"]:
                plain = self.hits(lineup, job, self.about["plain"], budget, kind) or None
            unscored = self._unscored(lineup, job, defence, budget, kind)
            asked[kind] = _asked(before, after, plain, unscored)
        return Cell(lineup, job, defence, budget, bool(self.about["jobs"][job]["clean"]), asked)


def _asked(before: Hits, after: Hits, plain: Hits | None, unscored: int) -> Asked:
    return Asked(
        _rate(before),
        _rate(after),
        _less(after, before),
        None if plain is None else _less(after, plain),
        _by_seed(after),
        unscored,
    )


def _columns(hits: Hits, which: Sequence[tuple[str, int]]) -> list[np.ndarray]:
    """Give hits, clusters and seeds of some prompts, each [U]."""
    return [
        np.array([hits[one][0] for one in which], float),
        np.array([hits[one][1] for one in which], int),
        np.array([seed for _, seed in which], int),
    ]


def _over(seeds: np.ndarray) -> np.ndarray | None:
    """Give the seeds where there are enough for an interval over them too."""
    return seeds if len(np.unique(seeds)) >= estimates.SEEDS_FOR_INTERVAL else None


def _rate(hits: Hits) -> Rate:
    values, cluster, seeds = _columns(hits, list(hits))
    return estimates.rate(values, np.ones(len(values)), cluster=cluster, seed=_over(seeds))


def _less(first: Hits, second: Hits) -> Gained:
    """Give how much larger the first share is, of the same prompts at the same seeds."""
    both = [one for one in first if one in second]
    values, cluster, seeds = _columns(first, both)
    return gained(values, _columns(second, both)[0], cluster, _over(seeds))


def _by_seed(hits: Hits) -> dict[int, float]:
    values, _, seeds = _columns(hits, list(hits))
    return {int(seed): float(values[seeds == seed].mean()) for seed in np.unique(seeds)}


def contrasts(
    outcomes: Outcomes,
    about: Mapping[str, Any],
    meta: Mapping[str, Any],
    second: str,
    side: str = EVALUATOR,
) -> list[Contrast]:
    """Set every defence beside one other, after every job at its last budget, in every kind."""
    made, found = _Maker(outcomes, about, meta, side), []
    for lineup in outcomes.distinct("lineup"):
        for job in about["jobs"]:
            for first in about["defences"]:
                both = set(made.budgets(lineup, job, first))
                both &= set(made.budgets(lineup, job, second))
                if first == second or not both:
                    continue
                found += [
                    one
                    for kind in KINDS
                    if (one := _contrast(made, lineup, job, (first, second), kind, max(both)))
                ]
    return found


def _contrast(
    made: _Maker, lineup: str, job: str, names: tuple[str, str], kind: str, budget: float
) -> Contrast | None:
    one, other = (made.hits(lineup, job, name, budget, kind) for name in names)
    if not one or not other:
        return None
    left, right = _by_seed(one), _by_seed(other)
    seeds = sorted(left.keys() & right.keys())
    p = None
    if len(seeds) >= estimates.SEEDS_FOR_RANKING:
        p = exact.sign_flip([left[seed] - right[seed] for seed in seeds])
    return Contrast(lineup, job, *names, kind, _less(one, other), len(seeds), p)
