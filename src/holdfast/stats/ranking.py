"""Which line-ups may be compared, and what may be claimed of them."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.stats.records import Findings, Threat


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which line-ups stand to be compared, and what the pairs say of them.

    `fit` are those of use, complete, trained anew at every seed and not broken as released; `fixed`
    the same but for one checkpoint at all seeds, of which nothing is claimed. `first` is the one of
    `fit` that is beyond chance costlier than every other; None where there is none, and `unbeaten`
    then are those that no other is beyond chance costlier than.
    """

    fit: tuple[str, ...]
    fixed: tuple[str, ...]
    first: str | None
    unbeaten: tuple[str, ...]


def ranking(found: Findings, threat: Threat) -> Ranking:
    """Read a ranking off the pairs of a threat model; only what they claim counts."""
    costs = threat.costs[found.meta.thresholds[0]]
    able = [
        name
        for name, by_seed in costs.items()
        if not found.lineups[name].barred
        and not any(c.at_release or c.doubt for c in by_seed.values())
    ]
    fit = tuple(name for name in able if not found.lineups[name].one_checkpoint)
    fixed = tuple(name for name in able if found.lineups[name].one_checkpoint)
    over = {(pair.costlier, pair.cheaper) for pair in threat.pairs if pair.costlier is not None}
    beaten = {cheaper for costlier, cheaper in over if costlier in fit}
    unbeaten = tuple(name for name in fit if name not in beaten)
    first = None
    if len(fit) > 1 and len(unbeaten) == 1:
        (one,) = unbeaten
        if all((one, other) in over for other in fit if other != one):
            first = one
    return Ranking(fit, fixed, first, unbeaten)


def not_run(found: Findings, threat: Threat, lineup: str) -> list[str]:
    """Name the free attacks that were not run against a line-up, in full or at some seed."""
    tried = threat.opened.get(lineup, {})
    here = any(lineup in attack.points for attack in (*threat.attacks, *threat.free_attacks))
    missing = {attack.name for attack in threat.free_attacks if here and attack.name not in tried}
    missing |= {
        str(hole["attack"])
        for hole in found.meta.holes
        if hole.get("lineup") == lineup and hole.get("free", not hole.get("paid", True))
    }
    return sorted(missing)
