"""The outcomes table counted by trajectory: the shared input of prices, free attacks and curves.

A trajectory is one line-up under one choice of one attack at one seed. Shapes: T trajectories, K
budgets, G clusters of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.api import EvalPurpose
from holdfast.stats import cost, free
from holdfast.stats.rows import HARMFUL, Outcomes, distinct_rows, told

EVALUATOR, SELECTION = "evaluator", "attacker_selection"

Key = tuple[str, str, str, int]
"""Line-up, attack, variant, seed."""


class Counts:
    """Counts of one kind of row per trajectory, budget and cluster: [T, K, G]."""

    def __init__(self, table: Trajectories, mask: np.ndarray) -> None:
        self.outcomes, self.mask = table.outcomes, mask
        groups = table.outcomes.codes["group"][mask]
        # Sorted names, so that neither row order nor other line-ups move a resample.
        words = table.outcomes.words["group"]
        names = sorted({words[code] for code in np.unique(groups)})
        place = {name: i for i, name in enumerate(names)}
        lookup = np.asarray([place.get(word, 0) for word in words], int)
        self.shape = (len(table.keys), len(table.budgets), len(names))
        where = (table.trajectory[mask], table.budget[mask], lookup[groups])
        self.flat = np.ravel_multi_index(where, self.shape) if mask.any() else np.zeros(0, int)

    def count(self, which: np.ndarray | None = None) -> np.ndarray:
        """Count the rows of the kind (those that `which` [N] holds)."""
        weights = None if which is None else which[self.mask].astype(float)
        size = int(np.prod(self.shape))
        return np.bincount(self.flat, weights, minlength=size).reshape(self.shape).astype(float)


class Trajectories:
    """Every (line-up, attack, variant, seed) as one judge saw it, with its counts on both sides.

    `harm` counts the headline's prompts, `benign` those that benign utility is counted on, and
    `over_refusal` its own. `utility` names these sets; none named means all of purpose exact, and
    so does a side on which none of them is asked of attacked models. `told` are the outcomes there
    may be, by what the judge `counts`.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        judge: str,
        headline: str,
        utility: Sequence[str] = (),
        counts: str = HARMFUL,
    ) -> None:
        self.outcomes, self.told = outcomes, told(counts)
        codes = [outcomes.codes[name] for name in ("lineup", "attack", "variant")]
        columns = [*codes, outcomes.numbers["seed"].astype(int)]
        first, self.trajectory = distinct_rows(columns)
        words = outcomes.words
        self.keys: list[Key] = [
            (words["lineup"][a], words["attack"][b], words["variant"][c], int(s))
            for a, b, c, s in zip(*(column[first] for column in columns), strict=True)
        ]
        self.budgets, self.budget = np.unique(outcomes.numbers["budget"], return_inverse=True)
        self.budget = self.budget.reshape(-1)
        judged, checked = outcomes.judged, outcomes.checked
        by_judge = outcomes.is_("judge", judge)
        self.steps, self.flops = self._reached("steps"), self._reached("flops")
        self.distinct = self._reached("distinct") if outcomes.has("distinct") else None
        self.harm: dict[str, dict[str, np.ndarray]] = {}
        self.benign: dict[str, dict[str, np.ndarray]] = {}
        for side in (EVALUATOR, SELECTION):
            here = outcomes.is_("side", side)
            rows = Counts(self, here & by_judge & outcomes.where(set=headline))
            kinds = {name: rows.count(judged & outcomes.is_("outcome", name)) for name in self.told}
            self.harm[side] = {
                **kinds, "counted": rows.count(judged & outcomes.counted),
                "rows": rows.count(), "scored": rows.count(judged),
            }  # fmt: skip
            named = here & outcomes.where(set=utility)
            if not (named & (outcomes.numbers["budget"] > 0)).any():
                named = here & outcomes.where(purpose=EvalPurpose.EXACT)
            rows = Counts(self, named)
            right = checked & (outcomes.numbers["correct"] > 0)
            self.benign[side] = {"correct": rows.count(right), "asked": rows.count(checked)}
        asked = outcomes.where(purpose=EvalPurpose.OVER_REFUSAL, side=EVALUATOR)
        # Any judge may have said what is a refusal; the first one that did is read.
        speakers = outcomes.distinct("judge", asked & judged)
        speaker = outcomes.is_("judge", judge if judge in speakers else (speakers or [""])[0])
        rows = Counts(self, asked & speaker)
        self.over_refusal = {
            "refused": rows.count(judged & outcomes.is_("outcome", "refusal")),
            "scored": rows.count(judged),
        }

    def _reached(self, name: str) -> np.ndarray:
        """Give what each trajectory has spent at each budget (steps, FLOPs, rows): [T, K]."""
        found = np.zeros((len(self.keys), len(self.budgets)))
        values = np.nan_to_num(self.outcomes.numbers[name])
        np.maximum.at(found, (self.trajectory, self.budget), values)
        return found

    def at(self, trajectory: int) -> np.ndarray:
        """Give the budget indices at which a trajectory was evaluated."""
        return np.flatnonzero(self.harm[EVALUATOR]["rows"][trajectory].sum(-1) > 0)

    def scored(self, trajectory: int) -> np.ndarray:
        """Give those of them at which some answer has a verdict: nothing is known at the others."""
        return np.flatnonzero(self.harm[EVALUATOR]["scored"][trajectory].sum(-1) > 0)

    def curve(self, trajectory: int, side: str, at: np.ndarray) -> cost.Curve | None:
        """Wrap one trajectory's counts on one side at some budgets.

        None where the side has no restricted prompts, or no benign ones though the evaluator has:
        an attacker who cannot see that an attack wrecks the model would take it for the worst one.
        Benign prompts that are asked of the release alone are no sight of what an attack does: the
        curve then has none, and only degenerate answers tell a wreck.
        """
        harm = self.harm[side]
        if not harm["rows"][trajectory].sum():
            return None
        known = self._followed(trajectory, side, at)
        if not known and self._followed(trajectory, EVALUATOR, at):
            return None
        benign = {name: counts[trajectory, at] for name, counts in self.benign[side].items()}
        return cost.Curve(
            harm["counted"][trajectory, at],
            harm["degenerate"][trajectory, at],
            harm["scored"][trajectory, at],
            benign["correct"] if known else None,
            benign["asked"] if known else None,
        )

    def _followed(self, trajectory: int, side: str, at: np.ndarray) -> bool:
        """Say whether a side's benign prompts are asked at budgets past the release.

        Where there are none past it, whether they are asked at all.
        """
        later = at[self.budgets[at] > 0]
        return bool(self.benign[side]["asked"][trajectory, later if len(later) else at].sum())

    def candidate(self, trajectory: int) -> cost.Candidate | None:
        """Make the attacker's choice that a trajectory stands for; None where nothing is scored."""
        at = self.scored(trajectory)
        evaluator = self.curve(trajectory, EVALUATOR, at)
        if evaluator is None or not (self.budgets[at] > 0).any():
            return None
        _, attack, variant, _ = self.keys[trajectory]
        return cost.Candidate(
            name=f"{attack} {variant}".strip(),
            budgets=self.budgets[at],
            steps=self.steps[trajectory, at],
            flops=self.flops[trajectory, at],
            evaluator=evaluator,
            selection=self.curve(trajectory, SELECTION, at),
            distinct=None if self.distinct is None else self.distinct[trajectory, at],
        )

    def choices(self, trajectory: int) -> list[free.Choice]:
        """Give a free attack's choices along a trajectory: one a budget, beside the release."""
        at = self.scored(trajectory)
        found = []
        if not len(at) or self.budgets[at[0]] > 0:
            return []
        for k in at[1:]:
            both = np.asarray([at[0], k])
            evaluator = self.curve(trajectory, EVALUATOR, both)
            if evaluator is not None:
                found.append(
                    free.Choice(
                        variant=self.keys[trajectory][2],
                        budget=float(self.budgets[k]),
                        evaluator=evaluator,
                        selection=self.curve(trajectory, SELECTION, both),
                    )
                )
        return found
