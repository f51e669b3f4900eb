"""What honest fine-tuning teaches a line-up, and what becomes of its harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from holdfast.api import EvalPurpose
from holdfast.stats import estimates
from holdfast.stats.estimates import Rate
from holdfast.stats.ratios import Gained, apart, gained
from holdfast.stats.rows import Outcomes
from holdfast.stats.trajectories import EVALUATOR

Prompt = tuple[str, int]
"""A prompt's uid and a seed."""


@dataclass(frozen=True, slots=True)
class Gain:
    """One set asked of one line-up before and after honest fine-tuning on `budget` examples.

    Of purpose task `before` and `after` are shares right, of purpose harm shares harmful.
    `beside` is how much more was gained than by the undefended model; None where there is none, and
    of that model itself.
    """

    lineup: str
    set: str
    purpose: str
    budget: float
    before: Rate
    after: Rate
    gain: Gained
    beside: Gained | None


def gains(outcomes: Outcomes, judge: str, plain: str) -> list[Gain]:
    """Give what each line-up gained on each set at each budget, in the table's order.

    Args:
        judge: whose verdicts count on sets of purpose harm.
        plain: the undefended line-up.
    """
    found: dict[tuple[str, str, float], Gain] = {}
    after = outcomes.numbers["budget"] > 0
    here = outcomes.is_("side", EVALUATOR)
    order = [plain, *(one for one in outcomes.distinct("lineup") if one != plain)]
    for name in order:
        own = here & outcomes.is_("lineup", name)
        for kind in outcomes.distinct("set", own & after):
            asked = own & outcomes.is_("set", kind)
            for budget in outcomes.distinct("budget", asked & after):
                made = _gain(
                    outcomes, asked, name, kind, budget, judge, found.get((plain, kind, budget))
                )
                found[name, kind, budget] = made
    places = {name: i for i, name in enumerate(outcomes.distinct("lineup"))}
    return sorted(found.values(), key=lambda one: (places[one.lineup], one.set, one.budget))


def _gain(
    outcomes: Outcomes,
    asked: np.ndarray,
    name: str,
    kind: str,
    budget: float,
    judge: str,
    undefended: Gain | None,
) -> Gain:
    purpose = outcomes.purposes[kind]
    before = hits_of(outcomes, asked & outcomes.where(budget=0.0), purpose, judge)
    then = hits_of(outcomes, asked & outcomes.where(budget=budget), purpose, judge)
    both = [prompt for prompt in then if prompt in before]
    hits = [np.array([some[one][0] for one in both], float) for some in (before, then)]
    cluster = np.array([then[one][1] for one in both], int)
    seeds = np.array([seed for _, seed in both], int)
    several = len(np.unique(seeds)) >= estimates.SEEDS_FOR_INTERVAL
    over = seeds if several else None
    rates = [estimates.rate(some, np.ones(len(both)), cluster=cluster, seed=over) for some in hits]
    gain = gained(hits[1], hits[0], cluster, over)
    beside = None if undefended is None else apart(gain, undefended.gain)
    return Gain(name, kind, purpose.value, budget, *rates, gain, beside)


def hits_of(
    outcomes: Outcomes, rows: np.ndarray, purpose: EvalPurpose, judge: str
) -> Mapping[Prompt, tuple[bool, int]]:
    """Give whether each prompt counts, and its cluster: harmful by the judge, or else right."""
    if purpose is EvalPurpose.HARM:
        rows = rows & outcomes.judged & outcomes.is_("judge", judge)
        counts = outcomes.counted
    else:
        rows, counts = rows & outcomes.checked, outcomes.numbers["correct"] > 0
    words = outcomes.words["uid"]
    return {
        (words[outcomes.codes["uid"][i]], int(outcomes.numbers["seed"][i])): (
            bool(counts[i]), int(outcomes.codes["group"][i]),
        )
        for i in np.flatnonzero(rows)
    }  # fmt: skip
