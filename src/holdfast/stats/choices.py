"""What a study's rows say of each of the attacker's choices: shares, prices and crossings.

A *choice* is one variant of an attack that is paid for in examples. Everything is by line-up and
seed, so that a reader sees what a mean hides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cached_property

import numpy as np

from holdfast.api import PAID, EvalPurpose
from holdfast.stats import cost
from holdfast.stats.estimates import TINY
from holdfast.stats.rows import OUTCOMES, Outcomes
from holdfast.stats.trajectories import EVALUATOR, Counts, Trajectories
from holdfast.study.rehearsal import UTILITY

Costs = Mapping[str, Mapping[int, cost.Cost]]
"""Cost-to-break by line-up, then seed."""


class Share(StrEnum):
    """What is counted of a cell's prompts."""

    HARM = "harm"
    """Restricted prompts whose answer is harmful and of use."""
    RIGHT = "right"
    """Questions answered rightly, all sets that have an answer pooled."""
    REFUSED = "refused"
    """Look-alike questions refused."""


class Choices:
    """The outcomes of a study under attacks that are paid for, counted by cell.

    `labels` name the choices in the table's order; `side` says whose prompts the shares are of.
    Prices are always of the evaluator's.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        judge: str,
        headline: str,
        *,
        side: str = EVALUATOR,
        utility: Sequence[str] = (),
    ) -> None:
        self.judge, self.headline, self.side = judge, headline, side
        self.utility = utility
        self.tracks = Trajectories(outcomes, judge, headline, utility)
        self._paid = self._find()
        self.labels = list(self._paid)
        self.seeds = sorted({key[3] for key in self.tracks.keys})
        cells = self._counts[Share.HARM][1]
        self.budgets = {
            label: [
                float(self.tracks.budgets[k])
                for k in np.flatnonzero(cells[[*places.values()]].sum((0, 2)))
            ]
            for label, places in self._paid.items()
        }

    def _find(self) -> dict[str, dict[tuple[str, int], int]]:
        """Give the trajectory of each line-up and seed, by the label of its choice."""
        outcomes, found = self.tracks.outcomes, {}
        paid = set(outcomes.distinct("attack", outcomes.where(unit=PAID)))
        places: dict[tuple[str, str], dict[tuple[str, int], int]] = {}
        for index, (lineup, attack, variant, seed) in enumerate(self.tracks.keys):
            if attack in paid:
                places.setdefault((attack, variant), {})[lineup, seed] = index
        order = {word: i for i, word in enumerate(outcomes.words["variant"])}
        attacks = {word: i for i, word in enumerate(outcomes.words["attack"])}
        for attack, variant in sorted(places, key=lambda key: (attacks[key[0]], order[key[1]])):
            alike = [key for key in places if key[1] == variant]
            label = variant if variant and len(alike) == 1 else f"{attack} {variant}".strip()
            found[label] = places[attack, variant]
        return found

    @cached_property
    def _counts(self) -> dict[Share, tuple[np.ndarray, np.ndarray]]:
        """Give hits and prompts of each share by trajectory, budget and cluster: [T, K, G]."""
        outcomes, tracks = self.tracks.outcomes, self.tracks
        here = outcomes.is_("side", self.side)
        asked = Counts(
            tracks, here & outcomes.is_("judge", self.judge) & outcomes.where(set=self.headline)
        )
        wanted = self.utility
        counted = outcomes.where(set=wanted) if wanted else outcomes.where(purpose=UTILITY)
        known = Counts(tracks, here & counted)
        right = outcomes.checked & (outcomes.numbers["correct"] > 0)
        alike = Counts(
            tracks,
            here
            & outcomes.where(purpose=EvalPurpose.OVER_REFUSAL)
            & outcomes.where(judge=(self.judge, "exact")),
        )
        judged = outcomes.judged
        return {
            Share.HARM: (
                asked.count(judged & outcomes.is_("outcome", "harmful_useful")),
                asked.count(judged),
            ),
            Share.RIGHT: (known.count(right), known.count(outcomes.checked)),
            Share.REFUSED: (
                alike.count(judged & outcomes.is_("outcome", "refusal")),
                alike.count(judged),
            ),
        }

    @property
    def scored(self) -> bool:
        """Whether a single answer of the side was scored."""
        return any(bool(n.any()) for _, n in self._counts.values())

    def share(self, kind: Share, lineup: str, label: str, seed: int, budget: float) -> float | None:
        """Give one cell's share in [0, 1]; None where nothing was scored."""
        index = self._paid[label].get((lineup, seed))
        if index is None or budget not in self.tracks.budgets:
            return None
        hits, n = (
            each[index, int(np.searchsorted(self.tracks.budgets, budget))].sum()
            for each in self._counts[kind]
        )
        return float(hits / n) if n else None

    def outcomes(self, lineup: str, label: str, budget: float) -> list[float] | None:
        """Give the share of each outcome at a budget, all seeds together; None without any."""
        places = [i for (name, _), i in self._paid[label].items() if name == lineup]
        at = int(np.searchsorted(self.tracks.budgets, budget))
        counts = self.tracks.harm[EVALUATOR]
        each = [float(counts[name][places, at].sum()) for name in OUTCOMES]
        return [one / sum(each) for one in each] if sum(each) else None

    def costs(self, labels: Sequence[str], threshold: float) -> Costs:
        """Price every line-up at every seed, the attacker kept to some of its choices.

        The worst of them is chosen on its own selection prompts. No interval is drawn: `ci_low`
        and `ci_high` are the estimate itself.
        """
        found: dict[str, dict[int, list[cost.Candidate]]] = {}
        for label in labels:
            for (lineup, seed), index in self._paid[label].items():
                candidate = self.tracks.candidate(index)
                if candidate is not None:
                    found.setdefault(lineup, {}).setdefault(seed, []).append(candidate)
        return {
            lineup: {
                seed: cost.cost_to_break(some, threshold, resamples=0)
                for seed, some in sorted(seeds.items())
            }
            for lineup, seeds in found.items()
        }

    def crossing(self, lineup: str, label: str, seed: int, threshold: float) -> Crossing:
        """Find where harm alone passes a threshold, whatever became of the benign answers."""
        shares = [(b, self.share(Share.HARM, lineup, label, seed, b)) for b in self.budgets[label]]
        return crossing([(b, harm) for b, harm in shares if harm is not None], threshold)


Crossing = tuple[float, float]
"""The budget at which a threshold is passed (inf where none is), and the last one before it."""


def crossing(points: Sequence[tuple[float, float]], threshold: float) -> Crossing:
    """Give the first budget at which harm is past a threshold, and the one before.

    `points` are (budget, harm), budgets rising. The threshold itself is not past it.
    """
    before = 0.0
    for budget, harm in points:
        if harm > threshold + TINY:
            return budget, before
        before = budget
    return math.inf, before


def matched(steps: float, flops: float, wanted: float) -> int:
    """Give the steps of a loop that cost `wanted` FLOPs, where `steps` of it cost `flops`."""
    return round(steps * wanted / flops)
