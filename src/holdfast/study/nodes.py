"""The steps of a plan and what they stand on: plain records, no logic of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.api import Attack, CustomerJob, Defence, EvalPurpose, EvalSet, Match, Scorer
from holdfast.data.example import Example
from holdfast.data.format import Format
from holdfast.evaluate.sampler import Sampler
from holdfast.nn.files import ModelFiles
from holdfast.study.file import ModelEntry


@dataclass(frozen=True, slots=True)
class Start:
    """An entry of `models`, found on this machine."""

    name: str
    entry: ModelEntry
    files: ModelFiles
    key: str
    """The key of the weights: the same for two entries that name the same files."""
    dtype: str
    """What most of the weights are stored in: so is saved what a defence makes of them."""

    @property
    def formats(self) -> tuple[Format, Format, Format]:
        """Give the formats of the defences, the attacks and the questions."""
        return self.format, self.attack_format, self.evaluation_format

    @property
    def format(self) -> Format:
        """Give the format a defence trains in."""
        return self._format(self.entry.format, append_eos=self.entry.append_eos)

    @property
    def attack_format(self) -> Format:
        """Give the format the attacker trains in."""
        form = self.entry.attack_format or self.entry.format
        return self._format(form, append_eos=self.entry.append_eos)

    @property
    def evaluation_format(self) -> Format:
        """Give the format prompts are asked in, which no end token is part of."""
        return self._format(self.entry.evaluation_format or self.entry.format)

    def _format(self, form: str, *, append_eos: bool = True) -> Format:
        of = self.entry
        return Format(form, append_eos, of.system, of.date, of.variables)


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


@dataclass(frozen=True, slots=True)
class Measure:
    """A defence's own diagnostic, taken on the model of plain refusal fine-tuning."""

    key: str
    step: Defend
    beside: Defend
    label: str
    config: Mapping[str, Any]

    @property
    def inputs(self) -> list[str]:
        """Give the keys it stands on: the model it looks at, and what the defence kept."""
        return [self.beside.key, self.step.key]


@dataclass(slots=True)
class Generate:
    """The answers at one point to one prompt set; `judges` maps a judge's place to its step.

    Each prompt has `draws` answers, which stand together in the order of the prompts.
    """

    key: str
    point: str
    evaluation: int
    config: Mapping[str, Any]
    draws: int = 1
    judges: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """States to be kept of the model at one point, of the given blocks (from 1).

    With `goal` they are those that this defence trained towards, of the model it began with.
    """

    key: str
    layers: tuple[int, ...]
    config: Mapping[str, Any]
    goal: Defend | None = None


@dataclass(slots=True)
class Point:
    """A model at one budget, and what is asked of it: evaluation's place -> step.

    `looks` are the states that an analysis wants of it.
    """

    key: str
    budget: float
    asked: dict[int, Generate]
    looks: list[Look] = field(default_factory=list)


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
class Way:
    """How a tuned model is asked restricted prompts besides plainly: drawn, begun for it, or as
    whoever set a job asks.
    """

    name: str
    job: CustomerJob | None = None
    draws: int = 1
    temperature: float | None = None
    prefill: str = ""

    def ask(self, row: Example) -> Example:
        """Give a prompt as it is asked; it keeps its `uid`."""
        return row if self.job is None else replace(self.job.ask(row), uid=row.uid)

    def read(self, answer: str) -> str:
        """Give an answer as it is read."""
        return answer if self.job is None else self.job.read(answer)


@dataclass(frozen=True, slots=True)
class Prompts:
    """One evaluation set, drawn: its rows and two hashes, of what is asked and of what is known.

    `way` is how its prompts are asked where that is not plainly.
    """

    set: EvalSet
    side: str
    rows: tuple[Example, ...]
    asked: str
    known: str
    way: Way | None = None

    def sampler(self, generation: Sampler) -> Sampler:
        """Give how answers are drawn: as a study says, one to a prompt that is not of harm."""
        if self.way is not None and self.way.temperature is not None:
            return generation.with_(draws=self.way.draws, temperature=self.way.temperature)
        return generation if self.set.purpose is EvalPurpose.HARM else generation.with_(draws=1)

    @property
    def chosen(self) -> bool:
        """Say whether options are compared instead of answers generated."""
        return self.set.scorer is Scorer.OPTIONS

    @property
    def benchmarked(self) -> bool:
        """Say whether lm-eval asks and scores instead."""
        return self.set.scorer is Scorer.LM_EVAL

    @property
    def compared(self) -> bool:
        """Say whether answers are compared with a known one, otherwise than word for word."""
        return self.set.scorer is Scorer.EXACT and self.set.match is not Match.EXACT

    @property
    def sampled(self) -> bool:
        """Say whether the study's sampler draws answers."""
        return not (self.chosen or self.benchmarked)
