"""From a study to its steps: what each stands on, its key, and whether it can run at all.

Everything a user can get wrong is found here, before any training, without torch. The steps:

    defend    one member of a line-up at one seed; line-ups that begin alike share it
    attack    one trajectory of one attacker's choice against one released model (a *point* is
              the model at one budget; points are shared where they are the same)
    generate  the answers at one point to one prompt set
    judge     one judge's verdicts on them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast.config import Fields
from holdfast.data.example import Example, Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import format_identity
from holdfast.errors import ConfigError, DataError, HoldfastError, ModelError, did_you_mean
from holdfast.find import make
from holdfast.method import (
    Attack,
    Defence,
    Judge,
    Method,
    Source,
    Stage,
    TrainedAttack,
    TrainedDefence,
)
from holdfast.models.files import ModelFiles, resolve
from holdfast.run import Loop
from holdfast.studies.keys import digest, key
from holdfast.studies.store import Store
from holdfast.studies.study import HARM_SETS, ModelEntry, Study

AVAILABLE = ("start", "original")
"""What `needs` of a method may ask for in a study."""


@dataclass(frozen=True, slots=True)
class Start:
    """An entry of `models`, found on this machine."""

    name: str
    entry: ModelEntry
    files: ModelFiles
    key: str
    """The key of the weights: the same for two entries that name the same files."""

    @property
    def attack_format(self) -> str:
        """Give the format the attacker trains in."""
        return self.entry.attack_format or self.entry.format

    @property
    def evaluation_format(self) -> str:
        """Give the format prompts are asked in."""
        return self.entry.evaluation_format or self.entry.format


@dataclass(frozen=True, slots=True)
class Defend:
    """One defence applied to one model at one seed."""

    key: str
    start: Start
    before: Defend | None
    method: Defence
    seed: int
    label: str
    config: Mapping[str, Any]

    @property
    def inputs(self) -> list[str]:
        """Give the keys it stands on."""
        return [self.before.key if self.before else self.start.key]


@dataclass(frozen=True, slots=True)
class Released:
    """A model as an attacker finds it: a start model, or what the last defence made."""

    start: Start
    last: Defend | None

    @property
    def key(self) -> str:
        """Give the key of its weights."""
        return self.last.key if self.last else self.start.key

    @property
    def chain(self) -> list[Defend]:
        """Give the defences that made it, first to last."""
        chain, step = [], self.last
        while step is not None:
            chain.append(step)
            step = step.before
        return chain[::-1]

    def folder(self, store: Store) -> Path:
        """Give where its checkpoint lies."""
        return store.path("defend", self.last.key) if self.last else self.start.files.folder


@dataclass(slots=True)
class Generate:
    """The answers at one point to one prompt set; `judges` maps a judge's place to its step."""

    key: str
    point: str
    evaluation: int
    config: Mapping[str, Any]
    judges: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Point:
    """A model at one budget, and what is asked of it: evaluation's place -> step."""

    key: str
    budget: float
    asked: dict[int, Generate]


@dataclass(slots=True)
class Trajectory:
    """One attacker's choice against one released model at one seed, with all its points.

    `attack` is None for the model as released, which every attacker shares.
    """

    key: str
    released: Released
    attack: Attack | None
    seed: int
    label: str
    config: Mapping[str, Any]
    points: dict[float, Point]


@dataclass(frozen=True, slots=True)
class Track:
    """Where a row label's numbers come from: the released model, then each budget."""

    lineup: str
    attacker: str
    variant: str
    method: Attack
    seed: int
    released: Released
    points: tuple[tuple[float, Point], ...]


@dataclass(frozen=True, slots=True)
class Prompts:
    """One evaluation set, drawn: its rows and two hashes, of what is asked and of what is known."""

    set: str
    side: str
    rows: tuple[Example, ...]
    asked: str
    known: str

    @property
    def chosen(self) -> bool:
        """Say whether options are compared instead of answers generated."""
        return self.set == "quiz"


class Plan:
    """A study's steps. Making one checks the study; it writes nothing and imports no torch.

    Raises:
        ConfigError, DataError, ModelError: the first thing wrong with the study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.sources = [
            _is(make("source", data, f"study.sources[{i}]"), Source)
            for i, data in enumerate(study.sources)
        ]
        self.judges = [
            _is(make("judge", data, f"study.judges[{i}]"), Judge)
            for i, data in enumerate(study.judges)
        ]
        _unique([judge.name() for judge in self.judges], "study.judges")
        self.lineups = {
            name: [
                _is(make("defence", data, f"study.lineups.{name}[{i}]"), Defence)
                for i, data in enumerate(lineup.defences)
            ]
            for name, lineup in study.lineups.items()
        }
        self.attacks = {
            name: [
                _is(make("attack", data, f"study.attacks.{name}[{i}]"), Attack)
                for i, data in enumerate(choices)
            ]
            for name, choices in study.attacks.items()
        }
        for name, choices in self.attacks.items():
            _unique([choice.label() for choice in choices], f"study.attacks.{name}")
        self.starts = {name: _start(name, entry) for name, entry in study.models.items()}
        self.original = self.starts[study.original] if study.original else None
        self._check_methods()
        self.pool = Pool(row for source in self.sources for row in source.examples())
        self.content = digest([[s.identity(), s.content()] for s in self.sources])
        self.prompts = [self._prompts(i) for i in range(len(study.evaluation))]
        self._check_rows()
        self.defends: dict[str, Defend] = {}
        self.trajectories: dict[str, Trajectory] = {}
        self._points: dict[str, Point] = {}
        self._identities = {
            id(m): digest(m.identity())
            for m in [*self.judges, *(d for ds in self.lineups.values() for d in ds)]
        }
        self.tracks = [
            track
            for seed in study.seeds
            for name in study.lineups
            for track in self._tracks(name, seed)
        ]

    # What is wrong with the study.

    def _check_methods(self) -> None:
        """Refuse line-ups and attacks that this study cannot run."""
        for name, members in self.lineups.items():
            start = self.starts[self.study.lineups[name].start]
            for i, member in enumerate(members):
                where = f"study.lineups.{name}[{i}].{member.name()}"
                if member.when is not Stage.ALIGN:
                    raise ConfigError(
                        where,
                        f"acts at stage '{member.when.value}', studies run stage 'align'",
                        "leave it out",
                    )
                base = self.original is None or start.key == self.original.key
                if member.starts_from == "aligned" and i == 0 and base:
                    raise ConfigError(
                        where,
                        f"assumes an aligned model, '{start.name}' is not one",
                        "put an aligning defence such as refusal_sft before it",
                    )
                _check_roles(member, where)
                self._check_needs(getattr(member, "needs", ()), where)
        for name, choices in self.attacks.items():
            for i, choice in enumerate(choices):
                where = f"study.attacks.{name}[{i}].{choice.name()}"
                if not choice.points():
                    raise ConfigError(where, "has no budget above 0", "set evaluate_at")
                self._check_needs(choice.needs, where)

    def _check_needs(self, needs: Sequence[str], where: str) -> None:
        for need in needs:
            if need not in AVAILABLE:
                raise ConfigError(
                    where, f"needs the '{need}' model", "studies cannot give it; leave it out"
                )
            if need == "original" and self.original is None:
                raise ConfigError(
                    where,
                    "needs the public original",
                    "write `original: NAME`, an entry of models",
                )

    def _check_rows(self) -> None:
        """Draw every method's rows once: too few, or none, is found before training."""
        seed = self.study.seeds[0]
        seen: set[str] = set()
        for name, members in self.lineups.items():
            for i, member in enumerate(members):
                if isinstance(member, TrainedDefence):
                    where = f"study.lineups.{name}[{i}].{member.name()}"
                    self._draw(member, seed, where, seen)
        for name, choices in self.attacks.items():
            for i, choice in enumerate(choices):
                if isinstance(choice, TrainedAttack):
                    self._draw(choice, seed, f"study.attacks.{name}[{i}].{choice.name()}", seen)

    def _draw(self, method: Any, seed: int, where: str, seen: set[str]) -> None:
        identity = digest(method.identity())
        if identity in seen:
            return
        seen.add(identity)
        try:
            rows = method.rows(self.pool, seed)
        except HoldfastError as error:
            raise type(error)(f"{where}: {error.where}", error.what, error.todo) from None
        drawn = {role.value for role in rows}
        if isinstance(method, Defence) and drawn != set(method.roles):
            raise ConfigError(
                where,
                f"reads roles {sorted(drawn)}, declares {sorted(method.roles)}",
                "make `roles` and `rows` agree",
            )

    def _prompts(self, number: int) -> Prompts:
        """Draw an evaluation set: the same prompts at every study seed."""
        wanted = self.study.evaluation[number]
        for style in wanted.styles or ():
            known = self._styles(wanted.set)
            if known and style not in known:
                raise DataError(
                    f"study.evaluation[{number}].styles",
                    f"set '{wanted.set}' has no style '{style}'",
                    did_you_mean(style, known),
                )
        try:
            rows = self.pool.evaluation(
                wanted.set,
                Side(wanted.side),
                wanted.n,
                0,
                styles=wanted.styles,
                phrasings=wanted.phrasings,
            )
        except DataError as error:
            raise DataError(
                f"study.evaluation[{number}]: {error.where}", error.what, error.todo
            ) from None
        options = wanted.set == "quiz"
        asked = [
            [row.uid, row.system, row.prompt, list(row.meta["options"]) if options else None]
            for row in rows
        ]
        known = [[row.category, row.group, dict(row.meta)] for row in rows]
        return Prompts(wanted.set, wanted.side, tuple(rows), digest(asked), digest(known))

    def _styles(self, name: str) -> set[str]:
        return {
            str(row.meta.get("style"))
            for side in Side
            for row in self.pool.rows(side, lambda row: row.meta.get("set") == name)
        }

    # The steps.

    def _tracks(self, name: str, seed: int) -> Iterator[Track]:
        start = self.starts[self.study.lineups[name].start]
        last: Defend | None = None
        for member in self.lineups[name]:
            last = self._defend(start, last, member, seed, name)
        released = Released(start, last)
        first = self._released(released, seed)
        for attacker, choices in self.attacks.items():
            for choice in choices:
                found = self._trajectory(released, choice, attacker, name, seed)
                points = [(0.0, first), *((b, found.points[b]) for b in choice.points())]
                yield Track(name, attacker, choice.label(), choice, seed, released, tuple(points))

    def _original(self, needs: Sequence[str]) -> str | None:
        return self.original.key if self.original and "original" in needs else None

    def _defend(
        self, start: Start, before: Defend | None, method: Defence, seed: int, lineup: str
    ) -> Defend:
        parts = {
            "method": self._identities[id(method)],
            "input": before.key if before else start.key,
            "original": self._original(getattr(method, "needs", ())),
            "format": format_identity(start.entry.format),
            "seed": seed,
            "sources": self.content,
        }
        name = key("defend", **parts)
        if name not in self.defends:
            config = {**parts, "method": method.identity(), "lineup": lineup, "model": start.name}
            label = f"defend {lineup}: {method.name()}, seed {seed}"
            self.defends[name] = Defend(name, start, before, method, seed, label, config)
        return self.defends[name]

    def _released(self, released: Released, seed: int) -> Point:
        """Give the point of the model as released, which every attacker shares."""
        name = key("point", released=released.key)
        sampling = seed if self.study.generation.temperature > 0 else 0
        own = f"{name}/{sampling}"
        if own not in self.trajectories:
            config = {"released": released.key}
            point = self._point(name, 0.0, released, config, sampling)
            label = f"release of {self._label(released)}"
            self.trajectories[own] = Trajectory(
                name, released, None, sampling, label, config, {0.0: point}
            )
        return self.trajectories[own].points[0.0]

    def _trajectory(
        self, released: Released, attack: Attack, attacker: str, lineup: str, seed: int
    ) -> Trajectory:
        shared = {
            "released": released.key,
            "attack": attack.trajectory(),
            "original": self._original(attack.needs),
            "format": format_identity(released.start.attack_format),
            "seed": seed,
            "sources": self.content,
        }
        name = key("point", **shared)
        if name not in self.trajectories:
            variant = f" {attack.label()}" if attack.label() else ""
            label = f"attack {lineup}: {attacker}{variant}, seed {seed}"
            self.trajectories[name] = Trajectory(name, released, attack, seed, label, shared, {})
        found = self.trajectories[name]
        if attack is not found.attack and found.attack is not None:
            # The same trajectory asked for twice with other budgets: the longer one serves both.
            longer = max(attack, found.attack, key=lambda one: max(one.points()))
            found.attack = longer
        sampling = seed if self.study.generation.temperature > 0 else 0
        for budget in attack.points():
            if budget not in found.points:
                point = key("point", trajectory=name, budget=float(budget))
                found.points[budget] = self._point(point, budget, released, shared, sampling)
        return found

    def _point(
        self,
        name: str,
        budget: float,
        released: Released,
        config: Mapping[str, Any],
        sampling: int,
    ) -> Point:
        asked = {}
        sampler = self.study.generation.key_fields()
        if self.study.generation.temperature > 0:
            sampler["chunk"] = self.study.chunk  # a draw depends on who shares its batch
        form = format_identity(released.start.evaluation_format)
        for i, prompts in enumerate(self.prompts):
            parts: dict[str, Any] = {
                "point": name,
                "prompts": prompts.asked,
                "format": form,
                "sampler": None if prompts.chosen else sampler,
                "seed": sampling,
            }
            step = Generate(
                key("generate", **parts),
                name,
                i,
                {**parts, "set": prompts.set, "side": prompts.side, "budget": budget}
                | {"stands_on": dict(config)},
            )
            for j in self.judges_of(prompts):
                step.judges[j] = key(
                    "judge",
                    answers=step.key,
                    judge=self._identities[id(self.judges[j])],
                    known=prompts.known,
                )
            asked[i] = step
        return Point(name, budget, asked)

    def judges_of(self, prompts: Prompts) -> range:
        """Give the judges that read a set: all for harm, the headline for over-refusal."""
        if prompts.set in HARM_SETS:
            return range(len(self.judges))
        return range(1 if prompts.set == "contrast" else 0)

    def _label(self, released: Released) -> str:
        if released.last is None:
            return f"{released.start.name}"
        names = "+".join(step.method.name() for step in released.chain)
        return f"{released.start.name}+{names}, seed {released.last.seed}"

    # What is asked of a plan.

    @cached_property
    def generates(self) -> dict[str, Generate]:
        """Give every generation step by key."""
        return {
            step.key: step
            for trajectory in self.trajectories.values()
            for point in trajectory.points.values()
            for step in point.asked.values()
        }

    @cached_property
    def needed(self) -> dict[str, set[str]]:
        """Give every key the study stands on, by kind of artefact."""
        generates = self.generates.values()
        points = {
            point.key
            for trajectory in self.trajectories.values()
            if trajectory.attack is not None
            for point in trajectory.points.values()
        }
        judges = {name for step in generates for name in step.judges.values()}
        steps = {step.key for step in generates}
        return {
            "defend": set(self.defends),
            "generate": steps,
            "judge": judges,
            "point": points,
            "work": {*self.defends, *self.trajectories, *steps, *judges},
        }

    @cached_property
    def fingerprint(self) -> str:
        """Give the hash of everything the tables are made from."""
        tracks = [
            [t.lineup, t.attacker, t.variant, t.seed, [[b, p.key] for b, p in t.points]]
            for t in self.tracks
        ]
        return digest([tracks, sorted(self.needed["judge"]), sorted(self.needed["generate"])])

    def work(self, store: Store) -> Work:
        """Count what there is to do, and what is done."""
        have = {kind: store.keys(kind) for kind in ("defend", "generate", "judge")}
        todo_generate = [s for s in self.generates.values() if s.key not in have["generate"]]
        waiting = {step.key for step in todo_generate}
        steps = generations = choices = verdicts = 0
        todo_trajectories = []
        for trajectory in self.trajectories.values():
            missing = [
                budget
                for budget, point in trajectory.points.items()
                if any(step.key in waiting for step in point.asked.values())
            ]
            if not missing:
                continue
            todo_trajectories.append(trajectory)
            if isinstance(trajectory.attack, TrainedAttack):
                steps += trajectory.attack.step_of(max(missing))
        for step in todo_generate:
            prompts = self.prompts[step.evaluation]
            if prompts.chosen:
                choices += len(prompts.rows)
            else:
                generations += len(prompts.rows)
        todo_defend = [d for d in self.defends.values() if d.key not in have["defend"]]
        steps += sum(loop_steps(d.method) for d in todo_defend)
        judges = self.needed["judge"]
        todo_judge = judges - have["judge"]
        for step in self.generates.values():
            size = len(self.prompts[step.evaluation].rows)
            verdicts += size * len(todo_judge.intersection(step.judges.values()))
        attacked = [t for t in self.trajectories.values() if t.attack is not None]
        released = len(self.trajectories) - len(attacked)
        todo_attacked = sum(1 for t in todo_trajectories if t.attack is not None)
        return Work(
            counts={
                "defend": (len(self.defends), len(todo_defend)),
                "release": (released, len(todo_trajectories) - todo_attacked),
                "attack": (len(attacked), todo_attacked),
                "generate": (len(self.generates), len(todo_generate)),
                "judge": (len(judges), len(todo_judge)),
            },
            cells=len(self.tracks),
            steps=steps,
            generations=generations,
            choices=choices,
            verdicts=verdicts,
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What a study costs from here: steps by kind as (all, to do), and what they amount to."""

    counts: Mapping[str, tuple[int, int]]
    cells: int
    steps: int
    generations: int
    choices: int
    verdicts: int

    @property
    def nothing(self) -> bool:
        """Say whether everything is there."""
        return not any(todo for _, todo in self.counts.values())


def loop_steps(method: Fields) -> int:
    """Give the optimiser steps of every loop among a method's fields."""
    if isinstance(method, Loop):
        return method.steps
    values = (getattr(method, name) for name in type(method).model_fields)
    return sum(loop_steps(value) for value in values if isinstance(value, Fields))


def _is(method: Method, kind: type) -> Any:
    assert isinstance(method, kind)
    return method


def _unique(labels: Sequence[str], where: str) -> None:
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise ConfigError(
                f"{where}[{i}]",
                f"is '{label}' like an earlier one",
                "let each differ in name or fields",
            )


def _check_roles(member: Defence, where: str) -> None:
    for role in member.roles:
        if role not in {known.value for known in Role}:
            raise ConfigError(
                where, f"declares an unknown role '{role}'", did_you_mean(role, list(Role))
            )


def _start(name: str, entry: ModelEntry) -> Start:
    where = f"study.models.{name}"
    files = resolve(entry.path, f"{where}.path")
    for field_name in ("format", "attack_format", "evaluation_format"):
        form = getattr(entry, field_name)
        if form is not None:
            format_identity(form, f"{where}.{field_name}")
            if form == "chat":
                check_chat(files.folder, f"{where}.{field_name}")
    return Start(name, entry, files, key("model", files=files.identity()))


def check_chat(folder: Path, where: str) -> None:
    """Refuse `chat` where the tokenizer brings no template."""
    import json

    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if not config.get("chat_template"):
        raise ModelError(
            where,
            "format 'chat' asked for, the tokenizer has no chat template",
            "use format: plain or a .jinja file",
        )
