"""Whether a defence did its own thing: its diagnostic beside that of plain refusal fine-tuning.

A row whose defence did nothing of its own says nothing about the method. Each method names the
diagnostic that tells (`signal`) and where it goes (`moves`); the same diagnostic is taken on the
model of plain refusal fine-tuning of the same seed; docs/studies.md says how they are compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from holdfast.study.keys import key
from holdfast.study.nodes import Defend, Measure, Track

if TYPE_CHECKING:
    from holdfast.study.file import Study

PLAIN = "refusal_sft"
"""The defence that does nothing of its own: every other is compared with it."""


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
        if step is None or why_not(study, step, beside):
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


def why_not(study: Study, step: Defend, beside: Sequence[Defend]) -> str:
    """Say why a step has nothing to be compared with; empty where it has."""
    if not beside or [one.method.name() for one in beside] != [PLAIN]:
        return f"no line-up '{study.reference.plain}' of {PLAIN} alone"
    if beside[0].start.key != step.start.key:
        return f"line-up '{study.reference.plain}' begins with another model"
    return ""
