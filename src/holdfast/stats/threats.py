"""One threat model: what its paid attacks cost, and what its free ones get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from holdfast.api import PAID
from holdfast.stats import cost, estimates, free, pairs
from holdfast.stats.records import Attack, Meta, Point, Threat
from holdfast.stats.trajectories import EVALUATOR, Trajectories


def threat(
    access: str,
    names: Sequence[str],
    tracks: Trajectories,
    meta: Meta,
    barred: Mapping[str, str],
    checkpoints: Mapping[str, int],
    seeds: Sequence[int],
    resamples: int,
) -> Threat:
    """Work out one threat model."""
    outcomes = tracks.outcomes
    here = outcomes.is_("access", access)
    units: dict[str, str] = {}
    for attack in filter(None, outcomes.distinct("attack", here)):  # none: nobody attacked
        units[attack] = outcomes.distinct("unit", here & outcomes.is_("attack", attack))[0]
    paid = [name for name, unit in units.items() if unit == PAID]
    unpaid = [name for name in units if name not in paid]
    costs = {}
    if paid:
        found = {t: _costs(names, paid, tracks, t, resamples) for t in meta.thresholds}
        costs = found if all(found.values()) else {}  # empty where not one answer has a verdict
    first = costs.get(meta.thresholds[0], {})
    single = [name for name, count in checkpoints.items() if count == 1 and len(seeds) > 1]
    attacks = [
        _attack(n, units[n], names, tracks, meta.thresholds[0], len(seeds))
        for n in (*paid, *unpaid)
    ]
    return Threat(
        access=access,
        attacks=attacks[: len(paid)],
        free_attacks=attacks[len(paid) :],
        costs=costs,
        pairs=pairs.compare(first, {name: why for name, why in barred.items() if why}, single),
        opened=_opened(names, {n: units[n] for n in unpaid}, tracks, meta, len(seeds)),
    )


def _opened(
    names: Sequence[str],
    units: Mapping[str, str],
    tracks: Trajectories,
    meta: Meta,
    seeds: int,
) -> dict[str, dict[str, free.Opened]]:
    """Find what each free attack gets out of each line-up."""
    # A study of one model has nothing beside it, and is no original of its own.
    original = _original_harm(tracks, meta, seeds) if len(names) > 1 else None
    found: dict[str, dict[str, free.Opened]] = {}
    for name in names:
        for attack, unit in units.items():
            choices = _by_seed(tracks, name, attack)
            taken = {
                seed: free.pick(own, meta.thresholds[0])
                for seed, indices in choices.items()
                if (own := [one for index in indices for one in tracks.choices(index)])
            }
            if not taken:
                continue
            harm = _over([(t.evaluator.harmful, t.evaluator.scored) for t in taken.values()], seeds)
            benign = [
                (t.evaluator.correct, t.evaluator.asked)
                for t in taken.values()
                if t.evaluator.correct is not None and t.evaluator.asked is not None
            ]
            spoilt = [t.degenerate for t in taken.values() if t.degenerate is not None]
            points = meta.original_at.get(attack, ())
            found.setdefault(name, {})[attack] = free.Opened(
                attack=attack,
                unit=unit,
                taken=taken,
                harm=harm,
                utility=_over(benign, seeds),
                degenerate=sum(spoilt) / len(spoilt) if spoilt else None,
                original=all(t.budget in points for t in taken.values()),
                exceeds=free.exceeds(harm, original),
            )
    return found


def _by_seed(tracks: Trajectories, lineup: str, attack: str) -> dict[int, list[int]]:
    """Give the trajectories of one line-up under one attack, by seed."""
    found: dict[int, list[int]] = {}
    for index, key in enumerate(tracks.keys):
        if key[0] == lineup and key[1] == attack and tracks.at(index).size:
            found.setdefault(key[3], []).append(index)
    return dict(sorted(found.items()))


def _over(counts: Sequence[tuple[np.ndarray, np.ndarray]], seeds: int) -> estimates.Rate:
    """Pool the last budget's counts [K, G] of several seeds."""
    if not counts:
        return estimates.rate(np.zeros(0), np.zeros(0))
    hits, n = (np.stack([pair[i][-1] for pair in counts]) for i in (0, 1))
    return _pooled(hits, n, seeds)


def _original_harm(tracks: Trajectories, meta: Meta, seeds: int) -> estimates.Rate | None:
    """Give the harm of the public original as released; None where no line-up is it."""
    counts = tracks.harm[EVALUATOR]
    by_seed = {}
    for index, key in enumerate(tracks.keys):
        at = tracks.scored(index)
        if key[0] == meta.original and len(at) and tracks.budgets[at[0]] == 0:
            k = at[:1]
            pair = (counts["counted"][index, k], counts["scored"][index, k])
            by_seed.setdefault(key[3], pair)
    return _over(list(by_seed.values()), seeds) if by_seed else None


def _costs(
    names: Sequence[str],
    attacks: Sequence[str],
    tracks: Trajectories,
    threshold: float,
    resamples: int,
) -> dict[str, dict[int, cost.Cost]]:
    """Price every line-up at every seed under the worst of some attacks."""
    found: dict[str, dict[int, cost.Cost]] = {}
    for name in names:
        by_seed: dict[int, list[cost.Candidate]] = {}
        for index, (lineup, attack, _, seed) in enumerate(tracks.keys):
            if lineup == name and attack in attacks:
                candidate = tracks.candidate(index)
                if candidate is not None:
                    by_seed.setdefault(seed, []).append(candidate)
        if by_seed:
            found[name] = {
                seed: cost.cost_to_break(by_seed[seed], threshold, resamples=resamples)
                for seed in sorted(by_seed)
            }
    return found


def _attack(
    attack: str,
    unit: str,
    names: Sequence[str],
    tracks: Trajectories,
    threshold: float,
    seeds: int,
) -> Attack:
    """Gather one attack's points, each seed under its worst variant."""
    points, chosen, chosen_on = {}, {}, "selection"
    for name in names:
        picked = {}
        for seed, indices in _by_seed(tracks, name, attack).items():
            worst, on = _worst(indices, unit, tracks, threshold)
            picked[seed] = worst
            chosen_on = on if len(indices) > 1 or unit != PAID else chosen_on
        if not picked:
            continue
        chosen[name] = {seed: tracks.keys[index][2] for seed, index in picked.items()}
        grids = [set(map(int, tracks.at(index))) for index in picked.values()]
        shared = set.intersection(*grids)  # else a point would mix some seeds with fewer others
        at = sorted(shared if len(shared) > 1 else set.union(*grids))
        points[name] = [_point(k, picked, tracks, seeds) for k in at]
    return Attack(attack, unit, points, chosen, chosen_on)


def _worst(
    indices: Sequence[int], unit: str, tracks: Trajectories, threshold: float
) -> tuple[int, str]:
    """Give the worst of an attack's variants at one seed, and on whose prompts it was chosen.

    Of a free attack every budget is a choice too; with one alone there is none to make.
    """
    if unit == PAID:
        candidates = {index: tracks.candidate(index) for index in indices}
        known = {index: one for index, one in candidates.items() if one is not None}
        if known:
            worst = cost.cost_to_break(list(known.values()), threshold, resamples=0)
            names = [one.name for one in known.values()]
            return list(known)[names.index(worst.candidate)], worst.chosen_on
        return indices[0], "selection"
    choices = [one for index in indices for one in tracks.choices(index)]
    if not choices:
        return indices[0], "selection"
    taken = free.pick(choices, threshold)
    variants = [tracks.keys[index][2] for index in indices]
    on = taken.chosen_on if len(choices) > 1 else "selection"
    return indices[variants.index(taken.variant)], on


def _point(k: int, picked: Mapping[int, int], tracks: Trajectories, seeds: int) -> Point:
    """Pool one budget over seeds."""
    indices = list(picked.values())
    harm, benign = tracks.harm[EVALUATOR], tracks.benign[EVALUATOR]

    def pooled(hits: np.ndarray, n: np.ndarray) -> estimates.Rate:
        return _pooled(hits[indices, k], n[indices, k], seeds)

    def each(hits: np.ndarray, n: np.ndarray) -> dict[int, float | None]:
        return {
            seed: float(hits[index, k].sum() / n[index, k].sum()) if n[index, k].sum() else None
            for seed, index in picked.items()
        }

    scored = harm["scored"][indices, k].sum()
    return Point(
        budget=float(tracks.budgets[k]),
        harm=pooled(harm["counted"], harm["scored"]),
        harm_seeds=each(harm["counted"], harm["scored"]),
        utility=pooled(benign["correct"], benign["asked"]),
        utility_seeds=each(benign["correct"], benign["asked"]),
        refused=pooled(tracks.over_refusal["refused"], tracks.over_refusal["scored"]),
        shares=tuple(float(harm[o][indices, k].sum() / max(scored, 1)) for o in tracks.told),
        rows=int(harm["rows"][indices, k].sum()),
        unscored=int(harm["rows"][indices, k].sum() - scored),
    )


def _pooled(hits: np.ndarray, n: np.ndarray, seeds: int) -> estimates.Rate:
    """Pool counts [S, G] of several seeds; over seeds too where there are enough of them."""
    units = np.indices(hits.shape)
    return estimates.rate(
        hits.reshape(-1), n.reshape(-1), cluster=units[1].reshape(-1),
        seed=units[0].reshape(-1) if seeds >= estimates.SEEDS_FOR_INTERVAL else None,
    )  # fmt: skip
