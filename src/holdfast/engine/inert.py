"""Reads, from finished steps, whether each line-up's defence did its own thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.engine.store import Store
from holdfast.stats.inert import acted, unknown
from holdfast.study.inert import chains, deciding, why_not
from holdfast.study.nodes import Defend
from holdfast.study.plan import Plan


@dataclass(frozen=True, slots=True)
class Check:
    """What became of a line-up's check: both diagnostics by seed, and the verdict.

    `inert` is None where nothing could be decided; `undecided` then says why, or is empty for a
    line-up whose defences name no signal (which has no diagnostics either).
    """

    signal: str = ""
    moves: str = ""
    values: Mapping[int, float] = field(default_factory=dict)
    beside: Mapping[int, float] = field(default_factory=dict)
    inert: bool | None = None
    undecided: str = ""


def checks(plan: Plan, store: Store) -> dict[str, Check]:
    """Give every line-up's check, from finished steps."""
    by_place = chains(plan.tracks)
    return {name: _check(plan, store, name, by_place) for name in plan.study.lineups}


def _check(
    plan: Plan, store: Store, lineup: str, by_place: Mapping[tuple[str, int], list[Defend]]
) -> Check:
    steps = {seed: deciding(by_place[lineup, seed]) for seed in plan.study.seeds}
    first = next(iter(steps.values()))
    if first is None:
        return Check()
    signal, moves = first.method.signal, first.method.moves
    values, beside = {}, {}
    for seed, step in steps.items():
        assert step is not None  # the same defences at every seed
        found = _diagnostics(store, "defend", step.key)
        if signal in found:
            values[seed] = float(found[signal])
        measure = plan.measures.get((lineup, seed))
        if measure is not None:
            found = _diagnostics(store, "measure", measure.key)
            if signal in found:
                beside[seed] = float(found[signal])
    plain = by_place.get((plan.study.reference.plain, plan.study.seeds[0]), [])
    why = why_not(plan.study, first, plain) or unknown(plan.study.seeds, values, beside)
    inert = None if why else not acted([*values.values()], [*beside.values()], moves)
    return Check(signal, moves, values, beside, inert, why)


def _diagnostics(store: Store, kind: str, key: str) -> Mapping[str, float]:
    """Give what a step measured; nothing where it could not be run."""
    return store.manifest(kind, key)["result"]["diagnostics"] if store.has(kind, key) else {}
