"""The optional `tune` of a study: customers' jobs on a host's loop, each under a defence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import SerializeAsAny

from holdfast.api import (
    Attack,
    Blocks,
    CustomerJob,
    Defence,
    Effort,
    FineTuning,
    Judge,
    Loop,
    Risk,
    Rows,
    Stage,
    TuneDefence,
)
from holdfast.api.registry import make
from holdfast.data.example import Example, Role, Side
from holdfast.errors import ConfigError, HoldfastError, did_you_mean
from holdfast.study.file import Cross, Study, Tune
from holdfast.study.keys import digest
from holdfast.study.nodes import Generate, Point, Prompts, Track, Way
from holdfast.study.tuning import taught_sets

if TYPE_CHECKING:
    from holdfast.data.pool import Pool
    from holdfast.study.plan import Plan

SAMPLED, PREFILLED = "sampled", "prefilled"
"""What the ways of asking at the last budget are called."""


class AsReleased(Attack):
    """Nobody attacks: what a study of hosts alone asks its line-ups, as they are released."""

    def points(self) -> tuple[float, ...]:
        """Give none."""
        return ()


class Hosted(FineTuning):
    """One customer's job on a host's loop under one defence; it runs as an attack does.

    The loop is the host's: those of job and defence count for nothing.
    """

    job: SerializeAsAny[CustomerJob]
    """What the customer hands in."""
    defence: SerializeAsAny[TuneDefence]
    """What the host does about it."""

    @classmethod
    def name(cls) -> str:
        """Give what it is called: it is no file of its own."""
        return "hosted"

    @property
    def needs(self) -> tuple[str, ...]:  # ty: ignore[incompatible-property-override]
        """Name the models that the defence needs."""
        return self.defence.needs

    def identity(self) -> dict[str, Any]:
        """Give what a key is made of: the host's loop, the rows and the defence."""
        alone = ("loop", "evaluate_at")
        parts = {name: getattr(self, name).identity() for name in ("job", "defence")}
        for part in parts.values():
            part["fields"] = {n: v for n, v in part["fields"].items() if n not in alone}
        own = {"kind": self.kind, "name": self.name(), "version": self.version}
        return own | {"fields": {"loop": self.key_fields()["loop"]}, **parts}

    def label(self) -> str:
        """Give the job and the defence."""
        return f"{self.job.name()} under {self.defence.name()}"

    def loop_to(self, point: float) -> Loop:
        """Give the host's loop up to a budget; under a falling rate it is run to its own end."""
        falls = self.loop.schedule != "constant"
        return self.loop if falls else self.loop.with_(steps=self.step_of(point))

    def customer(self, pool: Pool, seed: int) -> list[Example]:
        """Give the rows that the customer hands in.

        Raises:
            DataError: there are too few, or none.
        """
        (rows,) = self.job.rows(self.job.sees(pool), seed).values()
        return rows

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Give the customer's rows, and what the defence adds of its own."""
        own = self.defence.rows(self.defence.sees(pool), seed)
        return {**own, Role.TASK: self.customer(pool, seed)}

    def distinct_rows(self, pool: Pool, seed: int) -> int:
        """Give how many rows the customer hands in."""
        return len(self.customer(pool, seed))

    def copies(self) -> int:
        """Count the defence's copies."""
        return self.defence.with_(loop=self.loop).copies()

    def vectors(self) -> int:
        """Count the defence's vectors."""
        return self.defence.with_(loop=self.loop).vectors()

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Give what a step costs under the defence."""
        return self.defence.with_(loop=self.loop).effort(rows, of)

    def effort_before(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Give what the defence does before the first step."""
        return self.defence.with_(loop=self.loop).effort_before(rows, of)


@dataclass(frozen=True, slots=True)
class Hosting:
    """What a study's `tune` names, made: `methods[job, defence]` are all that are tried."""

    said: Tune
    jobs: Mapping[str, CustomerJob]
    defences: Mapping[str, TuneDefence]
    methods: Mapping[tuple[str, str], Hosted]

    def tried(self, lineups: Sequence[str]) -> Iterator[tuple[str, str, str]]:
        """Give each (line-up, job, defence) that is tried, once, in the order of the file."""
        for lineup in lineups:
            for job in self.jobs:
                for defence in self.defences:
                    if any(self._in(cross, lineup, job, defence) for cross in self.said.cross):
                        yield lineup, job, defence

    def _in(self, cross: Cross, lineup: str, job: str, defence: str) -> bool:
        return (
            lineup in (cross.released or (lineup,))
            and job in (cross.jobs or (job,))
            and (defence in (cross.defences or (defence,)) or defence == self.said.plain)
        )


def host(study: Study) -> Hosting | None:
    """Make what a study's `tune` names; None where it has none.

    Raises:
        ConfigError: the first thing wrong with the section.
    """
    said = study.tune
    if said is None:
        return None
    defences = {name: _defence(data, name) for name, data in said.defences.items()}
    jobs = {name: _job(data, name) for name, data in said.jobs.items()}
    _known(said.plain, defences, "study.tune.plain", "defence")
    for i, cross in enumerate(said.cross):
        where = f"study.tune.cross[{i}]"
        for j, one in enumerate(cross.released):
            _known(one, study.lineups, f"{where}.released[{j}]", "line-up")
        for j, one in enumerate(cross.jobs):
            _known(one, jobs, f"{where}.jobs[{j}]", "job")
        for j, one in enumerate(cross.defences):
            _known(one, defences, f"{where}.defences[{j}]", "defence")
    try:
        methods = {
            (job, name): Hosted(
                loop=said.loop, evaluate_at=said.evaluate_at, job=jobs[job], defence=defences[name]
            )
            for job in jobs
            for name in defences
        }
    except ConfigError as error:
        place = error.where.removeprefix("Hosted.")
        raise ConfigError(f"study.tune.{place}", error.what, error.todo) from None
    return Hosting(said, jobs, defences, methods)


def _known(name: str, known: Mapping[str, object], where: str, what: str) -> None:
    if name not in known:
        raise ConfigError(where, f"no {what} '{name}'", did_you_mean(name, known))


def _defence(data: object, name: str) -> TuneDefence:
    """Make a defence, and refuse one that does not act while a model is tuned."""
    where = f"study.tune.defences.{name}"
    made = make("defence", data, where)
    if not isinstance(made, TuneDefence):
        stage = made.when.value if isinstance(made, Defence) else Stage.ALIGN.value
        raise ConfigError(
            f"{where}.{made.name()}",
            f"acts at stage '{stage}', a customer is met at stage 'tune'",
            "put it into a line-up, which jobs are tried on",
        )
    return made


def _job(data: object, name: str) -> CustomerJob:
    """Make a job, and refuse an attack that needs more than rows, or brings a loop."""
    where = f"study.tune.jobs.{name}"
    made = make("attack", data, where)
    if not isinstance(made, CustomerJob):
        raise ConfigError(
            f"{where}.{made.name()}",
            "is no customer's job: it does more than hand in rows",
            "name it under `attacks`, or take a job such as harmful_share",
        )
    for field in ("loop", "evaluate_at"):
        if getattr(made, field) != type(made).model_fields[field].default:
            raise ConfigError(
                f"{where}.{made.name()}.{field}",
                "is the host's to decide",
                f"write it under `tune`: study.tune.{field}",
            )
    return made


def shared_critics(hosting: Hosting | None, judges: Sequence[Judge]) -> list[str]:
    """Name the defences whose critic also judges afterwards: what it misses nobody then sees."""
    if hosting is None:
        return []
    known, told = {judge.name() for judge in judges}, []
    for name, method in hosting.defences.items():
        risk = getattr(method, "risk", None)
        if isinstance(risk, Risk):
            critics = {one.made_judge().name() for one in risk.scorers() if one.judge is not None}
            told += [
                f"defence '{name}': its critic '{one}' also judges the answers, so that what it "
                "misses is not seen afterwards"
                for one in sorted(critics & known)
            ]
    return told


def check_rows(hosting: Hosting, pool: Pool, defended: Pool, seed: int) -> None:
    """Draw every job's rows and every defence's once.

    Raises:
        ConfigError, DataError: there are too few, or none, in one line with its place.
    """
    for kind, methods, rows in (
        ("jobs", hosting.jobs, pool),
        ("defences", hosting.defences, defended),
    ):
        for name, method in methods.items():
            try:
                method.rows(method.sees(rows), seed)
            except HoldfastError as error:
                where = f"study.tune.{kind}.{name}: {error.where}"
                raise type(error)(where, error.what, error.todo) from None


def asked_again(hosting: Hosting, headline: Prompts) -> dict[str, Prompts]:
    """Give the headline's prompts in each way that tuned models are asked them besides, by name."""
    found = {
        name: Way(name, job=job) for name, job in hosting.jobs.items() if job.asks_its_own_way()
    }
    last = hosting.said.at_last
    if last.draws > 1:
        found[SAMPLED] = Way(SAMPLED, draws=last.draws, temperature=last.temperature)
    if last.prefill is not None:
        found[PREFILLED] = Way(PREFILLED, prefill=last.prefill)
    return {name: _in_way(headline, way) for name, way in found.items()}


def _in_way(prompts: Prompts, way: Way) -> Prompts:
    of = replace(
        prompts.set, name=f"{prompts.set.name}/{way.name}", label=f"{prompts.set.label}, {way.name}"
    )
    asked = [prompts.asked, way.prefill, way.job and way.job.identity()]
    return replace(prompts, set=of, asked=digest(asked), way=way)


def asked_of(plan: Plan, track: Track, point: Point) -> list[Generate]:
    """Give what counts of a point for a track; how customers ask counts for their jobs alone."""
    if isinstance(track.method, Hosted):
        wanted = track.points[-1][1].asked  # a release is asked in the ways of all jobs
        return [step for place, step in point.asked.items() if place in wanted]
    return [step for i, step in point.asked.items() if plan.prompts[i].way is None]


def plain_sets(study: Study, prompts: Sequence[Prompts]) -> list[int]:
    """Give the places of the sets asked at every budget: the evaluator's and the host's selection.

    The evaluator's of purpose task are asked whatever their `at` says.

    Raises:
        ConfigError: there is none of purpose task.
    """
    taught = taught_sets(prompts, "study.tune")
    host = (Side.EVALUATOR, Side.DEFENDER_SELECTION)
    every = enumerate(zip(study.evaluation, prompts, strict=True))
    asked = {i for i, (wanted, one) in every if wanted.at == "all" and one.side in host}
    return sorted(taught | asked)
