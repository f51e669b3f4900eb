"""The optional `analysis` of a study: which states are taken, and what is told of them.

States are taken where a model answers (attacked weights live no longer) and kept; what a report
says of them is worked out from what is kept (`engine.states`), so other neighbours need no replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.data.example import Example, Side
from holdfast.errors import ConfigError, DataError, did_you_mean
from holdfast.nn.memory import shape
from holdfast.study.file import Analysis
from holdfast.study.keys import digest, key
from holdfast.study.nodes import Defend, Look, Point, Start, Track
from holdfast.study.prompts import asked_of

if TYPE_CHECKING:
    from holdfast.study.plan import Plan


@dataclass(frozen=True, slots=True)
class Looked:
    """One line-up at one seed: where the states it is told by are kept.

    `start` is the undefended model, where the study has it; `goal` the states that its defence
    trained towards, where the study asks for them; `points` are budgets above 0.
    """

    track: Track
    layers: tuple[int, ...]
    depth: int
    start: Look | None
    released: Look
    points: tuple[tuple[float, Look], ...]
    goal: Look | None = None


class Looking:
    """What a plan is to look at: the prompts, and every line-up's places.

    Making one checks the section and marks the plan's points.

    Raises:
        ConfigError, DataError: the first thing wrong with the section.
    """

    def __init__(self, plan: Plan, said: Analysis) -> None:
        self.said = said
        self._looks: dict[str, Look] = {}
        known = plan.study.lineups
        for i, name in enumerate(said.lineups):
            if name not in known:
                raise ConfigError(
                    f"study.analysis.lineups[{i}]",
                    f"no line-up '{name}'",
                    did_you_mean(name, known),
                )
        if said.attack not in plan.attacks:
            raise ConfigError(
                "study.analysis.attack",
                f"no attacker '{said.attack}'",
                did_you_mean(said.attack, plan.attacks),
            )
        own = (track.variant for track in plan.tracks if track.attacker == said.attack)
        labels = list(dict.fromkeys(own))
        variant = labels[0] if said.variant is None else said.variant
        if variant not in labels:
            raise ConfigError(
                "study.analysis.variant",
                f"{said.attack} has no choice '{variant}'",
                did_you_mean(variant, labels),
            )
        _check_goal(plan, said)
        self.rows = _prompts(plan, said)
        self._asked = digest([asked_of(row) for row in self.rows])
        tracks = [
            track
            for track in plan.tracks
            if (track.attacker, track.variant) == (said.attack, variant)
            and track.lineup in said.lineups
        ]
        plain = {
            track.released.start.key: track for track in plan.tracks if track.released.last is None
        }
        tracks.sort(key=lambda track: said.lineups.index(track.lineup))  # stable: seeds in order
        self.looked = [self._lineup(track, plain.get(track.released.start.key)) for track in tracks]

    @property
    def looks(self) -> dict[str, Look]:
        """Give everything that is to be kept, by key."""
        return self._looks

    def _lineup(self, track: Track, plain: Track | None) -> Looked:
        start = track.released.start
        depth = shape(start.files).layers
        layers = self.said.layers or tuple(range(1, depth + 1))
        for i, layer in enumerate(layers):
            if layer > depth:
                raise ConfigError(
                    f"study.analysis.layers[{i}]",
                    f"{layer}, the model '{start.name}' has {depth}",
                    f"name blocks from 1 to {depth}",
                )
        layers = tuple(sorted(set(layers)))
        known = [budget for budget, _ in track.points if budget > 0]
        wanted = known if self.said.budgets is None else sorted(set(self.said.budgets))
        for budget in wanted:
            if budget not in known:
                raise ConfigError(
                    "study.analysis.budgets",
                    f"{budget:g} is no budget of {self.said.attack} {track.variant}".rstrip(),
                    "known: " + ", ".join(f"{one:g}" for one in known),
                )
        released, *_ = (self._look(point, start, layers) for b, point in track.points if b == 0)
        base = None
        if plain is not None and track.released.last is not None:
            base = self._look(plain.points[0][1], start, layers)
        points = tuple(
            (budget, self._look(point, start, layers))
            for budget, point in track.points
            if budget in wanted
        )
        goal = None
        if track.lineup == self.said.goal:
            first = next(point for budget, point in track.points if budget == 0)
            goal = self._look(first, start, layers, track.released.last)
        return Looked(track, layers, depth, base, released, points, goal)

    def _look(
        self, point: Point, start: Start, layers: tuple[int, ...], goal: Defend | None = None
    ) -> Look:
        """Mark a point: one of those that share its key takes the states."""
        parts = {
            "point": point.key,
            "prompts": self._asked,
            "format": start.evaluation_format.identity(),
            "layers": list(layers),
            **({"goal": goal.key} if goal is not None else {}),
        }
        name = key("analyse", **parts)
        if name not in self._looks:
            self._looks[name] = Look(name, layers, parts | {"budget": point.budget}, goal)
            point.looks.append(self._looks[name])
        return self._looks[name]


def _check_goal(plan: Plan, said: Analysis) -> None:
    """Refuse a goal of a line-up that is not looked at, or whose defence has none."""
    if said.goal is None:
        return
    if said.goal not in said.lineups:
        raise ConfigError(
            "study.analysis.goal",
            f"line-up '{said.goal}' is not among `lineups`",
            did_you_mean(said.goal, said.lineups),
        )
    members = plan.lineups[said.goal]
    if not members or not members[-1].has_goal():
        raise ConfigError(
            "study.analysis.goal",
            f"no defence of '{said.goal}' trains towards states",
            "name a line-up that ends in sgt, or leave it out",
        )


def _prompts(plan: Plan, said: Analysis) -> list[Example]:
    """Draw n prompts: one of every group, then a second of each, so that few are near-copies."""
    if said.k >= said.n:
        raise ConfigError(
            "study.analysis.k",
            f"{said.k} neighbours of {said.n} prompts",
            f"ask for at most {said.n - 1}",
        )
    name = plan.headline.set.name if said.set is None else said.set
    try:
        rows = plan.pool.evaluation(name, Side(said.side), None, 0)
    except DataError as error:
        raise DataError(f"study.analysis: {error.where}", error.what, error.todo) from None
    if said.n > len(rows):
        raise DataError(
            "study.analysis.n",
            f"{said.n} prompts asked for, set '{name}' of side '{said.side}' has {len(rows)}",
            f"ask for at most {len(rows)}",
        )
    seen: dict[str, int] = {}
    ranks = []
    for row in rows:
        ranks.append(seen.get(row.group, 0))
        seen[row.group] = ranks[-1] + 1
    order = sorted(range(len(rows)), key=lambda i: (ranks[i], i))
    return [rows[i] for i in order[: said.n]]


def unlooked(points: Sequence[Point], have: Mapping[str, set[str]]) -> Iterator[Look]:
    """Give what is still to be kept of some points, by what the store has."""
    for point in points:
        yield from (look for look in point.looks if look.key not in have["analyse"])
