"""The optional `analysis` of a study: which states are taken, and what is told of them.

States are taken where a model answers (attacked weights live no longer) and kept; everything told
of them is worked out from what is kept, so other neighbours or layers' figures need no replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.data.example import Example, Side
from holdfast.data.tokens import format_identity
from holdfast.errors import ConfigError, DataError, StoreError, did_you_mean
from holdfast.models.memory import shape
from holdfast.studies.keys import digest, key
from holdfast.studies.nodes import Look, Point, Start, Track
from holdfast.studies.study import Analysis

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from holdfast.studies.plan import Plan
    from holdfast.studies.store import Store

STATES = "states.safetensors"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Looked:
    """One line-up at one seed: where the states it is told by are kept.

    `start` is the undefended model, where the study has it; `points` are budgets above 0.
    """

    track: Track
    layers: tuple[int, ...]
    depth: int
    start: Look | None
    released: Look
    points: tuple[tuple[float, Look], ...]


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
        self.rows = _prompts(plan, said)
        self._asked = digest([[row.uid, row.system, row.prompt] for row in self.rows])
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
        return Looked(track, layers, depth, base, released, points)

    def _look(self, point: Point, start: Start, layers: tuple[int, ...]) -> Look:
        """Mark a point: one of those that share its key takes the states."""
        parts = {
            "point": point.key,
            "prompts": self._asked,
            "format": format_identity(start.evaluation_format),
            "layers": list(layers),
        }
        name = key("analyse", **parts)
        if name not in self._looks:
            self._looks[name] = Look(name, layers, parts | {"budget": point.budget})
            point.looks.append(self._looks[name])
        return self._looks[name]


def _prompts(plan: Plan, said: Analysis) -> list[Example]:
    """Draw n prompts: one of every group, then a second of each, so that few are near-copies."""
    if said.k >= said.n:
        raise ConfigError(
            "study.analysis.k",
            f"{said.k} neighbours of {said.n} prompts",
            f"ask for at most {said.n - 1}",
        )
    try:
        rows = plan.pool.evaluation(said.set, Side(said.side), None, 0)
    except DataError as error:
        raise DataError(f"study.analysis: {error.where}", error.what, error.todo) from None
    if said.n > len(rows):
        raise DataError(
            "study.analysis.n",
            f"{said.n} prompts asked for, set '{said.set}' of side '{said.side}' has {len(rows)}",
            f"ask for at most {len(rows)}",
        )
    seen: dict[str, int] = {}
    ranks = []
    for row in rows:
        ranks.append(seen.get(row.group, 0))
        seen[row.group] = ranks[-1] + 1
    order = sorted(range(len(rows)), key=lambda i: (ranks[i], i))
    return [rows[i] for i in order[: said.n]]


# What is told of finished states.


def table(plan: Plan, store: Store) -> list[Row]:
    """Give the analysis table: a row per line-up, seed, budget and layer, against the release.

    A line-up and seed whose states could not all be taken is left out. `cka` and `knn` are 1
    and `drift` 0 where nothing has moved; `knn_chance` is what strangers would keep.
    """
    from torch import from_numpy

    from holdfast import analysis

    looking = plan.looking
    if looking is None:
        return []
    k, n = looking.said.k, looking.said.n
    rows = []
    for looked in _whole(looking, store):
        before = _states(store, looked.released)
        for budget, look in looked.points:
            after = _states(store, look)
            for i, layer in enumerate(looked.layers):
                x, y = before[i], after[i]
                rows.append(
                    {
                        **_where(looked, budget),
                        "layer": layer,
                        "depth": looked.depth,
                        "prompts": n,
                        "k": k,
                        "cka": analysis.linear_cka(from_numpy(x), from_numpy(y)),
                        "knn": analysis.knn_overlap(x, y, k),
                        "knn_chance": k / (n - 1),
                        "drift": analysis.drift(x, y),
                    }
                )
    return rows


def scatter(plan: Plan, store: Store) -> list[Row]:
    """Give the points of the PCA figure: the deepest layer, undefended, released and attacked.

    The plane is that of all a line-up's states at a seed; attacked means the largest budget.
    """
    from holdfast import analysis

    looking = plan.looking
    if looking is None:
        return []
    rows = []
    for looked in _whole(looking, store):
        budget, last = looked.points[-1]
        sets = {"undefended": looked.start, "released": looked.released, "attacked": last}
        kept = {name: _states(store, look)[-1] for name, look in sets.items() if look is not None}
        found = analysis.plane(kept)
        for state, at in found.at.items():
            for example, (x, y) in zip(looking.rows, at.tolist(), strict=True):
                rows.append(
                    {
                        **_where(looked, budget if state == "attacked" else 0.0),
                        "layer": looked.layers[-1],
                        "depth": looked.depth,
                        "state": state,
                        "uid": example.uid,
                        "x": x,
                        "y": y,
                        "share_x": found.shares[0],
                        "share_y": found.shares[1],
                    }
                )
    return rows


def _whole(looking: Looking, store: Store) -> Iterator[Looked]:
    """Give the line-ups and seeds all of whose states are there."""
    have = store.keys("analyse")
    for looked in looking.looked:
        looks = [looked.released, *(look for _, look in looked.points)]
        looks += [looked.start] if looked.start is not None else []
        if all(look.key in have for look in looks):
            yield looked


def _where(looked: Looked, budget: float) -> Row:
    track = looked.track
    return {
        "lineup": track.lineup,
        "attack": track.attacker,
        "variant": track.variant,
        "seed": track.seed,
        "budget": budget,
        "unit": track.method.unit,
    }


def _states(store: Store, look: Look) -> NDArray[Any]:
    """Read kept states, [layers, N, H]."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = store.path("analyse", look.key) / STATES
    try:
        return load_file(path)["states"]
    except (OSError, KeyError, SafetensorError) as error:
        raise StoreError(
            str(path), f"cannot be read ({error})", "delete that folder and run again"
        ) from None


def unlooked(points: Sequence[Point], have: Mapping[str, set[str]]) -> Iterator[Look]:
    """Give what is still to be kept of some points, by what the store has."""
    for point in points:
        yield from (look for look in point.looks if look.key not in have["analyse"])
