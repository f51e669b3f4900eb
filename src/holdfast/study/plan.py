"""From a study to its steps: what each stands on, its key, and whether it can run at all.

Everything a user can get wrong is found here, before any training, without torch. The steps:

    defend    one member of a line-up at one seed; line-ups that begin alike share it
    attack    one trajectory of one attacker's choice against one released model (a *point* is
              the model at one budget; points are shared where they are the same)
    generate  the answers at one point to one prompt set
    judge     one judge's verdicts on them
    analyse   hidden states at one point, where the study asks for them
    measure   a defence's own diagnostic on the model of plain refusal fine-tuning
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from holdfast.api import (
    PAID,
    Attack,
    Chain,
    Defence,
    Judge,
    Method,
    PromptAttack,
    Source,
    Stage,
    TrainedAttack,
    TrainedDefence,
    WeightAttack,
)
from holdfast.api.registry import make
from holdfast.data.example import Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import format_identity
from holdfast.errors import ConfigError, DataError, HoldfastError, did_you_mean
from holdfast.study.checks import find_start, known_roles, one_unit, unique, variants
from holdfast.study.file import HARM_SETS, Study
from holdfast.study.inert import measures
from holdfast.study.keys import digest, key
from holdfast.study.looking import Looking
from holdfast.study.nodes import (
    Defend,
    Generate,
    Measure,
    Point,
    Prompts,
    Released,
    Start,
    Track,
    Trajectory,
)

AVAILABLE = ("start", "original")
"""What `needs` of a method may ask for in a study."""


class Plan:
    """A study's steps. Making one checks the study; it writes nothing and imports no torch.

    In a rehearsal the defender plays the attacker with its own rows (`Pool.rehearsal`).

    Raises:
        ConfigError, DataError, ModelError: the first thing wrong with the study.
    """

    def __init__(self, study: Study, *, rehearsal: bool = False) -> None:
        self.study, self.rehearsal = study, rehearsal
        self.sources = [
            _is(make("source", data, f"study.sources[{i}]"), Source)
            for i, data in enumerate(study.sources)
        ]
        self.judges = [
            _is(make("judge", data, f"study.judges[{i}]"), Judge)
            for i, data in enumerate(study.judges)
        ]
        unique([judge.name() for judge in self.judges], "study.judges")
        self.lineups = {
            name: [
                _is(make("defence", data, f"study.lineups.{name}[{i}]"), Defence)
                for i, data in enumerate(lineup.defences)
            ]
            for name, lineup in study.lineups.items()
        }
        self.pool = Pool(
            (row for source in self.sources for row in source.examples()),
            [persona for source in self.sources for persona in source.personas()],
        )
        self.attack_pool = self.pool.rehearsal() if rehearsal else self.pool
        self.attacks = {
            name: [
                choice
                for i, data in enumerate(choices)
                for choice in self._attacks(data, f"study.attacks.{name}[{i}]")
            ]
            for name, choices in study.attacks.items()
        }
        for name, choices in self.attacks.items():
            one_unit(choices, f"study.attacks.{name}")
        self.variants = {
            name: variants(choices, f"study.attacks.{name}")
            for name, choices in self.attacks.items()
        }
        self.starts = {name: find_start(name, entry) for name, entry in study.models.items()}
        self.original = self.starts[study.original] if study.original else None
        self._check_methods()
        self.content = digest([[s.identity(), s.content()] for s in self.sources])
        self.attack_content = digest([self.content, "rehearsal"]) if rehearsal else self.content
        self.prompts = [self._prompts(i) for i in range(len(study.evaluation))]
        self._check_rows()
        if not rehearsal:
            self._check_selection()
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
        self.looking = Looking(self, study.analysis) if study.analysis else None
        self.measures: dict[tuple[str, int], Measure] = measures(self.study, self.tracks)

    def _attacks(self, data: Any, where: str) -> list[Attack]:
        """Make an attacker's choice, or those it stands for; a list of two is a chain."""
        made: Attack
        if isinstance(data, list):
            parts = [
                _is(make("attack", one, f"{where}[{i}]"), Attack) for i, one in enumerate(data)
            ]
            made = chain(parts, where)
        else:
            made = _is(make("attack", data, where), Attack)
        try:
            return list(made.expand(self.attack_pool))
        except HoldfastError as error:
            raise type(error)(f"{where}: {error.where}", error.what, error.todo) from None

    # What is wrong with the study.

    def _check_selection(self) -> None:
        """Refuse an attacker with a choice to make and no prompts of its own to make it on."""
        asked = zip(self.study.evaluation, self.prompts, strict=True)
        have = {(p.set, p.side) for wanted, p in asked if wanted.at == "all"}
        several = [
            name for name, cs in self.attacks.items() if sum(len(c.points()) for c in cs) > 1
            and (len(cs) > 1 or cs[0].unit != PAID)
        ]  # fmt: skip
        for kind in ("restricted", "benign"):
            if several and (kind, Side.ATTACKER_SELECTION.value) not in have:
                raise ConfigError(
                    "study.evaluation",
                    f"attacker '{several[0]}' has choices, and there is no set '{kind}' of side "
                    "'attacker_selection' to choose on",
                    f"add `- {{set: {kind}, side: attacker_selection}}`",
                )

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
                known_roles(member, where)
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
                    self._draw(member, self.pool, seed, where, seen)
        for name, choices in self.attacks.items():
            for i, choice in enumerate(choices):
                where = f"study.attacks.{name}[{i}].{choice.name()}"
                self._draw(choice, self.attack_pool, seed, where, seen)

    def _draw(self, method: Any, pool: Pool, seed: int, where: str, seen: set[str]) -> None:
        identity = digest(method.identity())
        if identity in seen:
            return
        seen.add(identity)
        try:
            rows = method.rows(pool, seed)
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
            for choice, variant in zip(choices, self.variants[attacker], strict=True):
                found = self._trajectory(released, choice, f"{attacker} {variant}", name, seed)
                points = [(0.0, first), *((b, found.points[b]) for b in choice.points())]
                yield Track(name, attacker, variant, choice, seed, released, tuple(points))

    def _original(self, needs: Sequence[str]) -> str | None:
        return self.original.key if self.original and "original" in needs else None

    def _defend(
        self, start: Start, before: Defend | None, method: Defence, seed: int, lineup: str
    ) -> Defend:
        parts = {
            "method": self._identities[id(method)],
            "input": before.key if before else start.key,
            "original": self._original(getattr(method, "needs", ())),
            "format": format_identity(start.entry.format, append_eos=start.entry.append_eos),
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
            "format": format_identity(
                released.start.attack_format, append_eos=released.start.entry.append_eos
            ),
            "seed": seed,
            "sources": self.attack_content,
        }
        name = key("point", **shared)
        if name not in self.trajectories:
            label = f"attack {lineup}: {attacker.strip()}, seed {seed}"
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
                found.points[budget] = self._point(
                    point, budget, released, shared, sampling, isinstance(attack, PromptAttack)
                )
        return found

    def _point(
        self,
        name: str,
        budget: float,
        released: Released,
        config: Mapping[str, Any],
        sampling: int,
        prompts_only: bool = False,
    ) -> Point:
        """Give a model at one budget with what is asked of it.

        Under an attack by prompt the weights are the release's, and whoever wants a benign answer
        asks as before: those answers are the release's own.
        """
        asked = {}
        sampler = self.study.generation.key_fields()
        if self.study.generation.temperature > 0:
            sampler["chunk"] = self.study.chunk  # a draw depends on who shares its batch
        form = format_identity(released.start.evaluation_format)
        release = self._released(released, sampling) if prompts_only else None
        for i, prompts in enumerate(self.prompts):
            if budget > 0 and self.study.evaluation[i].at == "release":
                continue
            if release is not None and prompts.set not in HARM_SETS:
                asked[i] = release.asked[i]
                continue
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
            "analyse": set(self.looking.looks) if self.looking else set(),
            "measure": {step.key for step in self.measures.values()},
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
        made = [sorted(self.needed[kind]) for kind in ("judge", "generate", "measure")]
        if self.looking:
            made.append(sorted(self.needed["analyse"]))
        return digest([tracks, *made])


def chain(parts: Sequence[Attack], where: str) -> Chain:
    """Make one attack of two: an edit, then training.

    Raises:
        ConfigError: not these two, or the edit has several budgets.
    """
    if len(parts) != 2:
        raise ConfigError(where, f"a chain of {len(parts)} attacks", "write [edit, training]")
    first, then = parts
    if not isinstance(first, WeightAttack) or not isinstance(then, TrainedAttack):
        raise ConfigError(
            where,
            f"a chain of {first.name()} and {then.name()}",
            "write an edit of the weights (such as abliterate), then an attack that trains",
        )
    if len(first.points()) != 1:
        raise ConfigError(
            f"{where}[0].{first.name()}",
            f"has {len(first.points())} budgets in a chain",
            "give it one: evaluate_at: [1.0]",
        )
    return Chain(first=first, then=then)


def _is(method: Method, kind: type) -> Any:
    assert isinstance(method, kind)
    return method
