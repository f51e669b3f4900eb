"""Whether a defence did its own thing: its diagnostic beside that of plain refusal fine-tuning.

A row whose defence did nothing of its own says nothing about the method. Each method names the
diagnostic that tells (`signal`) and where it goes (`moves`); the same diagnostic is taken on the
model of plain refusal fine-tuning of the same seed, and the rule of design 6.7 compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from holdfast.studies.keys import key
from holdfast.studies.nodes import Defend, Measure, Track

if TYPE_CHECKING:
    from holdfast.studies.plan import Plan
    from holdfast.studies.store import Store
    from holdfast.studies.study import Study

PLAIN = "refusal_sft"
"""The defence that does nothing of its own: every other is compared with it."""

LEAST_SEEDS = 2
"""Fewer values than this have no range."""


def acted(values: Sequence[float], beside: Sequence[float], moves: Literal["up", "down"]) -> bool:
    """Say whether every value lies outside the other range, on its side, by that range's width.

    A range of width 0 must still be left. Source: design 6.7, issue 4.

    Args:
        values: the method's diagnostic, one a seed.
        beside: the same diagnostic of plain refusal fine-tuning, one a seed.
        moves: on which side of the range they must lie.
    """
    low, high = min(beside), max(beside)
    gaps = [value - high if moves == "up" else low - value for value in values]
    return all(gap > 0 and gap >= high - low for gap in gaps)


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


def deciding(chain: Iterable[Defend]) -> Defend | None:
    """Give the step that decides for a line-up: the last whose defence names a signal."""
    return next((step for step in reversed(list(chain)) if step.method.signal), None)


def chains(tracks: Iterable[Track]) -> dict[tuple[str, int], list[Defend]]:
    """Give the defences of each line-up at each seed, first to last."""
    return {(track.lineup, track.seed): track.released.chain for track in tracks}


def measures(study: Study, tracks: Iterable[Track]) -> dict[tuple[str, int], Measure]:
    """Give the step that measures plain refusal fine-tuning, by line-up and seed.

    None for a line-up without a signal, or where no such model starts from the same weights.
    """
    found = {}
    by_place = chains(tracks)
    for (lineup, seed), chain in by_place.items():
        step = deciding(chain)
        beside = by_place.get((study.reference.plain, seed), [])
        if step is None or _why_not(study, step, beside):
            continue
        config = {"defence": step.key, "beside": beside[0].key}
        found[lineup, seed] = Measure(
            key("measure", **config),
            step,
            beside[0],
            f"measure {study.reference.plain} as {lineup}: {step.method.name()}, seed {seed}",
            {**config, "method": step.method.identity(), "seed": seed},
        )
    return found


def _why_not(study: Study, step: Defend, beside: Sequence[Defend]) -> str:
    """Say why a step has nothing to be compared with; empty where it has."""
    if not beside or [one.method.name() for one in beside] != [PLAIN]:
        return f"no line-up '{study.reference.plain}' of {PLAIN} alone"
    if beside[0].start.key != step.start.key:
        return f"line-up '{study.reference.plain}' begins with another model"
    return ""


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
    why = _why_not(plan.study, first, plain) or unknown(plan.study.seeds, values, beside)
    inert = None if why else not acted([*values.values()], [*beside.values()], moves)
    return Check(signal, moves, values, beside, inert, why)


def _diagnostics(store: Store, kind: str, key: str) -> Mapping[str, float]:
    """Give what a step measured; nothing where it could not be run."""
    return store.manifest(kind, key)["result"]["diagnostics"] if store.has(kind, key) else {}


def unknown(seeds: Sequence[int], values: Mapping[int, float], beside: Mapping[int, float]) -> str:
    """Say why values by seed decide nothing; empty where they do."""
    if len(seeds) < LEAST_SEEDS:
        return "one seed has no range"
    for whose in (values, beside):
        for seed in seeds:
            if seed not in whose:
                return f"nothing to measure it on at seed {seed}"
            if not math.isfinite(whose[seed]):
                return f"not a number at seed {seed}"
    return ""
