"""The panel: several judges on the same answers, and what changes with the judge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from holdfast.stats.agreement import (
    MISSING,
    Agreement,
    Coefficient,
    Readings,
    alpha,
    drawn,
    interval,
    pair,
)
from holdfast.stats.cost import Cost
from holdfast.stats.records import Change, Difference, Findings, Flip, Panel, Reading
from holdfast.stats.rows import Outcomes
from holdfast.stats.trajectories import EVALUATOR


def agreements(said: Readings, *, resamples: int) -> tuple[Agreement, ...]:
    """Compare every two judges."""
    places = range(len(said.judges))
    return tuple(
        pair(said, left, right, resamples=resamples)
        for left, right in itertools.combinations(places, 2)
    )


def alphas(said: Readings, *, resamples: int) -> tuple[Coefficient, Coefficient]:
    """Give Krippendorff's alpha over all judges: on harmful or not, and on outcomes."""
    harm, outcome = (
        alpha(codes, said.cluster, resamples=resamples) for codes in (said.harm, said.outcome)
    )
    return harm, outcome


def panel(
    outcomes: Outcomes, found: Findings, others: Mapping[str, Findings], resamples: int
) -> Panel:
    """Compare the judges of a study on the evaluator's answers to the headline's set.

    `found` is what the study says by its first judge, `others` what it says by each other one.
    """
    judges = (found.meta.judges[0], *others)
    said, lineup = _said(outcomes, found.meta.headline, judges)
    harm, outcome = alphas(said, resamples=resamples)
    codes = {name: outcomes.code("lineup", name) for name in found.lineups}
    readings = []
    for number, (judge, other) in enumerate(others.items(), start=1):
        rates, flips = _orders(said, number, lineup, codes, resamples)
        readings.append(_reading(judge, rates, flips, found, other))
    return Panel(
        judges=judges,
        answers=len(said.cluster),
        clusters=len(np.unique(said.cluster)),
        unscored=said.unscored,
        agreements=agreements(said, resamples=resamples),
        alpha_harm=harm,
        alpha_outcome=outcome,
        readings=tuple(readings),
    )


def _said(outcomes: Outcomes, headline: str, judges: Sequence[str]) -> tuple[Readings, np.ndarray]:
    """Give what the judges said of each answer once, and the code of its line-up: [N].

    A released model's answers stand in the table once for every attack that begins with it.
    """
    rows = np.flatnonzero(outcomes.where(set=headline, side=EVALUATOR, judge=judges))
    attacked = outcomes.numbers["budget"][rows] != 0
    own = [
        *(np.where(attacked, outcomes.codes[name][rows] + 1, 0) for name in ("attack", "variant")),
        *(outcomes.codes[name][rows] for name in ("lineup", "uid")),
        *(outcomes.numbered(name)[rows] for name in ("seed", "budget")),
    ]
    flat = np.ravel_multi_index(own, [int(part.max(initial=0)) + 1 for part in own])
    _, first, answer = np.unique(flat, return_index=True, return_inverse=True)
    answer = answer.reshape(-1)
    codes = [outcomes.code("judge", judge) for judge in judges]
    place = np.full(len(outcomes.words["judge"]), -1)
    place[codes] = np.arange(len(judges))
    judge = place[outcomes.codes["judge"][rows]]
    shape = (len(first), len(judges))
    harm, outcome, score = np.full(shape, MISSING), np.full(shape, MISSING), np.full(shape, np.nan)
    known = outcomes.judged[rows]
    at = (answer[known], judge[known])
    outcome[at] = outcomes.codes["outcome"][rows][known]
    harm[at] = outcomes.counted[rows][known]
    score[at] = outcomes.numbers["score"][rows][known]
    cluster = np.unique(outcomes.codes["group"][rows][first], return_inverse=True)[1].reshape(-1)
    said = Readings(tuple(judges), outcome, harm, score, cluster)
    return said, outcomes.codes["lineup"][rows][first]


def _orders(
    said: Readings, other: int, lineup: np.ndarray, names: Mapping[str, int], resamples: int
) -> tuple[dict[str, tuple[float | None, float | None]], tuple[Flip, ...]]:
    """Give each line-up's harmful rate by the first judge and another, and where orders differ.

    Only answers that both gave a verdict on count.
    """
    both = (said.harm[:, [0, other]] != MISSING).all(1)
    cluster = np.unique(said.cluster[both], return_inverse=True)[1].reshape(-1)
    groups = int(cluster.max(initial=-1)) + 1
    place = {code: i for i, code in enumerate(names.values())}
    own = np.asarray([place.get(code, len(names)) for code in lineup[both]], int)
    size = len(names) + 1
    told = [np.ones(len(own)), said.harm[both, 0], said.harm[both, other]]
    counts = np.stack(  # rows, harmful by the first, by the other: [G, L, 3]
        [
            np.bincount(cluster * size + own, one, minlength=groups * size).reshape(groups, size)
            for one in told
        ],
        axis=-1,
    )

    def shares(summed: np.ndarray) -> np.ndarray:
        found = np.full((*summed.shape[:-1], 2), np.nan)
        rows = summed[..., :1]
        np.divide(summed[..., 1:], rows, out=found, where=rows > 0)
        return found

    point = shares(counts.sum(0))
    again = shares(drawn(counts, resamples)) if groups > 1 and resamples else None
    rates: dict[str, tuple[float | None, float | None]] = {
        name: (None, None) if np.isnan(point[i]).any() else (float(point[i, 0]), float(point[i, 1]))
        for i, name in enumerate(names)
    }
    flips = []
    for (i, left), (j, right) in itertools.combinations(enumerate(names), 2):
        apart = point[i] - point[j]
        if apart[0] * apart[1] < 0:
            ends = [None if again is None else interval(again[:, i, k] - again[:, j, k])
                    for k in (0, 1)]  # fmt: skip
            by = [Difference(float(apart[k]), *(ends[k] or (-1.0, 1.0))) for k in (0, 1)]
            flips.append(Flip(left, right, *by))
    return rates, tuple(flips)


def _reading(
    judge: str,
    rates: Mapping[str, tuple[float | None, float | None]],
    flips: tuple[Flip, ...],
    found: Findings,
    other: Findings,
) -> Reading:
    """Hold what the study says by one judge against what it says by another."""
    own, theirs = _costs(found), _costs(other)
    claimed, said = _claims(found), _claims(other)
    return Reading(
        judge=judge,
        rates=rates,
        flips=flips,
        costs=theirs,
        changes=tuple(
            change
            for name in own
            if name in theirs and (change := _change(name, own[name], theirs[name])) is not None
        ),
        reversed=tuple(one for one in claimed if one[::-1] in said),
        lost=tuple(one for one in claimed if one not in said and one[::-1] not in said),
        gained=tuple(one for one in said if one not in claimed and one[::-1] not in claimed),
    )


def _costs(found: Findings) -> Mapping[str, Mapping[int, Cost]]:
    threat = found.headline
    return {} if threat is None else threat.costs[found.meta.thresholds[0]]


def _claims(found: Findings) -> list[tuple[str, str]]:
    """Give the claimed pairs: (costlier, cheaper)."""
    pairs = [] if found.headline is None else found.headline.pairs
    return [(one.costlier, one.cheaper) for one in pairs if one.costlier and one.cheaper]


def _change(lineup: str, own: Mapping[int, Cost], other: Mapping[int, Cost]) -> Change | None:
    """Say whether a line-up is broken by one judge and not by the other, at some seed.

    It is decided where, at such a seed, the two intervals over prompts do not meet.
    """
    seeds = [s for s in own if s in other and _state(own[s]) != _state(other[s])]
    if not seeds:
        return None
    decided = any(_below(own[s], other[s]) or _below(other[s], own[s]) for s in seeds)
    return Change(lineup, own, other, tuple(seeds), decided)


def _state(cost: Cost) -> str:
    if cost.at_release:
        return "as released"
    return "not broken" if cost.survived else "broken"


def _below(one: Cost, other: Cost) -> bool:
    return math.isfinite(one.ci_high) and one.ci_high <= other.ci_low
