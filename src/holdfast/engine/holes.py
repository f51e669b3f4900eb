"""What of a study could not be run, and what hangs on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.api import PAID
from holdfast.engine.store import Store
from holdfast.errors import HoldfastError
from holdfast.study.hosting import Hosted, asked_of
from holdfast.study.nodes import Point, Track
from holdfast.study.plan import Plan

Row = dict[str, Any]


def holes(plan: Plan, store: Store, failures: Sequence[HoldfastError] = ()) -> list[Row]:
    """Name what could not be run: `what`, line-up, attacker, seed, `why`, and what hangs on it.

    `paid`: the price of the line-up does, so that nothing may be claimed of it (a hardened model,
    what it says as released, a training attack, the check that its defence acted); `free`: what a
    free attack gets does. Neither where another judge than the first is missing, honest fine-tuning
    or a customer's job. Failures of this run give their reason; of an earlier one only that it is
    missing.
    """
    looked = _Holes(plan, store, failures)
    for track in (*plan.tracks, *plan.tunings, *plan.hosted):
        looked.look(track)
    return list(looked.found.values())


class _Holes:
    """The holes met so far, each once, by line-up and what it is."""

    def __init__(self, plan: Plan, store: Store, failures: Sequence[HoldfastError]) -> None:
        self.found: dict[tuple[str, str], Row] = {}
        self._plan, self._failures = plan, failures
        kinds = ("defend", "generate", "judge", "measure")
        self._have = {kind: store.keys(kind) for kind in kinds}
        self._labels = {
            point.key: trajectory.label
            for trajectory in plan.trajectories.values()
            for point in trajectory.points.values()
        }

    def look(self, track: Track) -> None:
        """Look for what a track lacks."""
        gone = [step for step in track.released.chain if step.key not in self._have["defend"]]
        if gone:
            what = f"defence {gone[0].method.name()}"
            return self._add(track, what, gone[0].label, paid=True)
        measure = self._plan.measures.get((track.lineup, track.seed))
        if measure is not None and measure.key not in self._have["measure"]:
            what = f"the check that {measure.step.method.name()} acted"
            self._add(track, what, measure.label, paid=True)
        for budget, point in track.points:
            self._at(track, budget, point)
        return None

    def _at(self, track: Track, budget: float, point: Point) -> None:
        """Look for what is missing at one budget."""
        name = f"{track.attacker} {track.variant}".strip() if budget else "the release"
        honest = track.method is self._plan.tuning or isinstance(track.method, Hosted)
        paid = not budget or (track.method.unit == PAID and not honest)
        free = not (paid or honest)
        label = self._labels[point.key]
        for step in asked_of(self._plan, track, point):
            if step.key not in self._have["generate"]:
                self._add(track, name, label, paid=paid, free=free)
                continue
            for number, key in step.judges.items():
                if key not in self._have["judge"]:
                    judge, first = self._plan.judges[number].name(), number == 0
                    what, why = f"judge {judge} on {name}", f"judge {label}: {judge}"
                    if self._failure(label) and not self._failure(why):
                        what, why = name, label  # it stopped on its way, and was not judged
                    self._add(track, what, why, paid=paid and first, free=free and first)

    def _failure(self, label: str) -> HoldfastError | None:
        own = (e for e in self._failures if e.where == label or e.where.startswith(f"{label}: "))
        return next(own, None)

    def _add(
        self, track: Track, what: str, label: str, *, paid: bool = False, free: bool = False
    ) -> None:
        said = self._failure(label)
        row = {
            "what": f"{what}, seed {track.seed}",
            "lineup": track.lineup,
            "attack": track.attacker,
            "seed": track.seed,
            "why": " ".join(f"{said.what}; {said.todo}".split())
            if said
            else "see what the run said",
            "paid": paid,
            "free": free,
        }
        self.found.setdefault((track.lineup, row["what"]), row)
