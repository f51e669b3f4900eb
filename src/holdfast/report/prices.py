"""What fine-tuning costs, in sentences, and what may be claimed of it."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.report import text
from holdfast.report.counted import limit, told
from holdfast.report.names import SHOWN, listed
from holdfast.stats import estimates
from holdfast.stats.cost import Cost
from holdfast.stats.pairs import Pair
from holdfast.stats.ranking import ranking
from holdfast.stats.records import Findings, Threat


def price(costs: Mapping[int, Cost], each: str = "seed") -> str:
    """Say what a line-up cost over its seeds, in examples; `each` is what is counted."""
    found = list(costs.values())
    lasted = sum(c.survived for c in found)
    most = text.number(min((c.b_max for c in found if c.survived), default=0))
    if lasted == len(found):
        return f"more than {most} examples"
    low = min(c.low for c in found if not c.survived)
    high = max(c.high for c in found if not c.survived)
    if high == 0 and not lasted:
        return "nothing: it is past the threshold as released"
    if low == 0:
        between = f"at most {text.number(high)} {'example' if high == 1 else 'examples'}"
    else:
        between = f"between {text.number(low)} and {text.number(high)} examples"
    if not lasted:
        return between
    return f"{between} (more than {most} in {lasted} of {text.plural(len(found), each)})"


def effort(costs: Mapping[int, Cost]) -> str:
    """Say the same in optimiser steps and distinct rows owned; empty where nothing broke it."""
    broke = [c for c in costs.values() if not c.survived and not c.at_release]
    if not broke:
        return ""
    steps = int(max(c.steps[1] for c in broke))
    rows = int(max(c.distinct[1] for c in broke))
    return (
        f"at most {text.plural(steps, 'optimiser step')} and {text.plural(rows, 'row')} of the"
        " attacker's own"
    )


def paid_sentence(found: Findings) -> str:
    """Say what fine-tuning costs, and name a first only where every pair is beyond chance."""
    threat = found.headline
    if threat is None:
        run = any(threat.attacks for threat in found.threats)
        why = "No answer after training has a verdict" if run else "No training attack was run"
        return f"{why}, so what fine-tuning costs is not known."
    ranked = ranking(found, threat)
    costs = threat.costs[found.meta.thresholds[0]]
    if len(found.lineups) == 1:
        ((one, priced),) = costs.items()
        if all(c.at_release for c in priced.values()):
            past = f"{text.percent(found.meta.thresholds[0], 0)} {told(found).answers}"
            return f"As released, {one} is past {past} and needs no training{limit(found)}."
        if not found.lineups[one].barred:
            return _one_model(found, one, priced)
    if not ranked.fit:
        none = "No defended line-up can be ranked by what fine-tuning costs."
        return f"{none} {fixed(found, threat)}".strip()
    if ranked.first is not None:
        pairs = [p for p in threat.pairs if p.costlier == ranked.first and p.cheaper in ranked.fit]
        ratio = min(_ratio(p) for p in pairs)
        most = max(p.adjusted or 0.0 for p in pairs)
        return (
            f"By fine-tuning, {ranked.first} costs the attacker more than every other line-up of"
            f" use (at least x {ratio:.1f}, adjusted p <= {most:.3f}): {price(costs[ranked.first])}"
            f"{_effort(costs[ranked.first])}."
        )
    if len(ranked.fit) == 1:
        (one,) = ranked.fit
        alone = "there is no other line-up of use to compare it with"
        return f"Fine-tuning {_breaks(one, costs[one])}; {alone}."
    pooled = dict(enumerate(c for n in ranked.unbeaten for c in costs[n].values()))
    names = listed(ranked.unbeaten)
    if all(c.survived for c in pooled.values()):
        most = text.number(min(c.b_max for c in pooled.values()))
        return (
            f"By fine-tuning, {names} cannot be told apart: nothing that was tried, up to {most}"
            " examples, breaks any of them."
        )
    return (
        f"By fine-tuning, {names} cannot be told apart: each breaks after"
        f" {price(pooled, 'trained model')}{_effort(pooled)}."
    )


def _ratio(pair: Pair) -> float:
    """Give the costlier's cost over the cheaper's in a claimed pair."""
    ratio = pair.ratio or 1.0
    return ratio if pair.costlier == pair.left else 1 / ratio


def _breaks(name: str, costs: Mapping[int, Cost]) -> str:
    """Say after what one line-up breaks, or that nothing tried broke it."""
    if all(c.survived for c in costs.values()):
        most = text.number(min(c.b_max for c in costs.values()))
        return f"did not break {name} with any number tried, up to {most} examples"
    return f"breaks {name} after {price(costs)}{_effort(costs)}"


def _one_model(found: Findings, name: str, costs: Mapping[int, Cost]) -> str:
    """Say what fine-tuning does to the only model of a study, wrecks included."""
    early = [c.past for c in costs.values() if c.harmed_sooner]
    if not early:
        return f"Fine-tuning {_breaks(name, costs)}{limit(found)}."
    first = text.number(min(early))
    past = f"{text.percent(found.meta.thresholds[0], 0)} {told(found).answers}"
    said = (
        f"Fine-tuning takes {name} past {past} at {first} examples{limit(found)}, but wrecks its"
        " other answers by then or does not last"
    )
    if all(c.survived for c in costs.values()):
        most = text.number(min(c.b_max for c in costs.values()))
        return (
            f"{said}; nothing that was tried, up to {most} examples, does so and keeps it of use."
        )
    return f"{said}; it does so and keeps it of use after {price(costs)}{_effort(costs)}."


def _effort(costs: Mapping[int, Cost]) -> str:
    said = effort(costs)
    return f", {said}" if said else ""


def fixed(found: Findings, threat: Threat) -> str:
    """Say what one fixed checkpoint cost, and that its seeds are the attacker's alone."""
    costs = threat.costs[found.meta.thresholds[0]]
    names = ranking(found, threat).fixed
    if not names:
        return ""
    each = [f"{name} {price(costs[name])}" for name in names[:SHOWN]]
    seeds = text.plural(len(found.seeds), "seed")
    return (
        f"Of one checkpoint, attacked with {seeds} of the attacker's own, nothing is claimed about"
        f" a method: {text.listed(each)}."
    )


def claim(found: Findings, threat: Threat) -> str:
    """Say whether a ranking may be claimed, and if not, why."""
    if len(found.lineups) == 1:
        return "There is one line-up, and nothing to rank it with."
    proven = [pair for pair in threat.pairs if pair.costlier is not None]
    if proven:
        words = [
            f"{pair.costlier} over {pair.cheaper} (adjusted p = {pair.adjusted:.3f})"
            for pair in proven
        ]
        some = (
            text.listed(words) if len(words) <= 2 * SHOWN else f"{len(words)} pairs (table below)"
        )
        return (
            f"A ranking by fine-tuning cost alone may be claimed for {some}, and for no other pair."
        )
    if len(found.seeds) < estimates.SEEDS_FOR_RANKING:
        return (
            f"No ranking is claimed: a claim needs {estimates.SEEDS_FOR_RANKING} paired seeds, and"
            f" this study has {len(found.seeds)}."
        )
    return "No ranking is claimed: no pair of line-ups differs by more than chance allows."


def sooner(costs: Mapping[int, Cost], name: str, alone: str) -> str:
    """Say where harm alone was past the threshold before the price says so; empty if nowhere.

    `alone` is what a report calls it.
    """
    early = [c.past for c in costs.values() if c.harmed_sooner]
    if not early:
        return ""
    return (
        f"{text.begun(alone)} was past the threshold for {name} at"
        f" {text.number(min(early))} examples already, in {len(early)} of"
        f" {text.plural(len(costs), 'seed')}, under a choice that wrecked its other answers or"
        " where it did not last; the price counts only models that are still of use."
    )


def undefended(found: Findings, threat: Threat) -> str:
    """Say whether the undefended model needs an attack at all."""
    plain = threat.costs[found.meta.thresholds[0]].get(found.meta.none, {})
    if plain and all(c.at_release for c in plain.values()):
        return (
            f"Whoever can still fetch the undefended model ({found.meta.none}) needs no attack at"
            " all: it is past the threshold as released."
        )
    return ""
