"""Trials as the line-ups of a study in which the defender plays the attacker."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from holdfast.api import PAID, EvalPurpose, Source
from holdfast.api.fields import lay_over
from holdfast.api.registry import make
from holdfast.errors import ConfigError, HoldfastError
from holdfast.study.file import Evaluation, LineUp, Study
from holdfast.study.keys import canonical
from holdfast.study.plan import Plan
from holdfast.study.trials import START, Range, Trials

UTILITY = (EvalPurpose.EXACT, EvalPurpose.OPTIONS)
"""Purposes of sets whose answers are right or wrong; pooled, every prompt counts once."""

Space = Mapping[str, Range | tuple[JsonValue, ...]]
Setting = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: `given` are the fields it sets, `defences` the whole line-up."""

    method: str
    number: int
    given: Setting
    defences: tuple[Any, ...]

    @property
    def lineup(self) -> str:
        """Give the line-up's name in the study that runs it."""
        return f"{self.method}-{self.number}" if self.number else self.method


def trials_of(said: Trials) -> list[Trial]:
    """Give every trial in the order of the file; the first is the start without defences."""
    found = [Trial(START, 0, {}, ())]
    for name, search in said.methods.items():
        settings = list(search.vary) or drawn(name, search.space, said.trials)
        for number, given in enumerate(settings, 1):
            fields = lay_over(search.fixed, given)
            own = {search.method or name: fields}
            found.append(Trial(name, number, given, (*search.before, own)))
    seen: dict[str, Trial] = {}
    for trial in found:
        same = seen.setdefault(canonical([trial.method, list(trial.defences)]), trial)
        if same is not trial:
            raise ConfigError(
                f"trials.methods.{trial.method}",
                f"trials {same.number} and {trial.number} are the same",
                "let each differ",
            )
    return found


def drawn(name: str, space: Space, n: int) -> list[Setting]:
    """Draw n settings from a space: a function of the entry's name alone, nested in n."""
    lists = {field: values for field, values in space.items() if isinstance(values, tuple)}
    if len(lists) == len(space):
        every = [
            dict(zip(space, values, strict=True)) for values in itertools.product(*lists.values())
        ]
        every.sort(key=lambda setting: _hash(name, canonical(setting)))
        return [_nested(setting) for setting in every[:n]]
    return [
        _nested(
            {field: _draw(values, _hash(name, field, str(k))) for field, values in space.items()}
        )
        for k in range(n)
    ]


def _hash(*parts: str) -> float:
    """Give a number in [0, 1) that hangs on some words."""
    sha = hashlib.sha256("/".join(parts).encode()).digest()
    return int.from_bytes(sha[:6], "big") / 2**48


def _draw(values: Range | tuple[JsonValue, ...], share: float) -> JsonValue:
    if isinstance(values, tuple):
        return values[int(share * len(values))]
    low, high = values.low, values.high
    if values.whole:
        high += 1  # each whole number has its own stretch
    value = low * (high / low) ** share if values.log else low + share * (high - low)
    return math.floor(value) if values.whole else float(f"{value:.3g}")


def _nested(setting: Mapping[str, JsonValue]) -> Setting:
    """Turn `loop.lr: 1` into `loop: {lr: 1}`."""
    found: Setting = {}
    for path, value in setting.items():
        *groups, last = path.split(".")
        inner = found
        for group in groups:
            deeper = inner.get(group)
            if not isinstance(deeper, dict):
                deeper = inner[group] = {}
            inner = deeper
        inner[last] = value
    return found


def rehearse(said: Trials, trials: Sequence[Trial]) -> Plan:
    """Plan trials as the line-ups of a study in which the defender plays the attacker.

    Raises:
        ConfigError, DataError, ModelError: the first thing wrong, at its place in the file.
    """
    purposes = _purposes(said)
    study = Study(
        name=said.name,
        seeds=said.seeds,
        models=said.models,
        original=said.original,
        sources=said.sources,
        lineups={
            trial.lineup: LineUp(start=said.start, defences=trial.defences) for trial in trials
        },
        attacks=said.attacks,
        evaluation=tuple(
            Evaluation(
                set=one.set,
                side=one.side,
                n=one.n,
                styles=one.styles,
                phrasings=one.phrasings,
                categories=one.categories,
                at="all" if purposes.get(one.set) is EvalPurpose.HARM else "release",
            )
            for one in said.evaluation
        ),
        judges=said.judges,
        generation=said.generation,
        chunk=said.chunk,
    )
    try:
        plan = Plan(study, rehearsal=True)
    except HoldfastError as error:
        raise type(error)(_place(error.where, trials), error.what, error.todo) from None
    for name, choices in plan.attacks.items():
        for i, choice in enumerate(choices):
            if choice.unit != PAID:
                raise ConfigError(
                    f"trials.attacks.{name}[{i}]", f"{choice.name()} costs no examples",
                    "leave it out: trials are chosen by what they cost to break",
                )  # fmt: skip
    return plan


def _purposes(said: Trials) -> dict[str, EvalPurpose]:
    """Give what each set is for that the sources declare.

    Raises:
        ConfigError: a set that is asked decides nothing, or there is not one set that gives harm
            and at least one that gives utility.
    """
    made = [make("source", data, f"trials.sources[{i}]") for i, data in enumerate(said.sources)]
    known = {
        one.name: one.purpose
        for source in made
        if isinstance(source, Source)
        for one in source.sets()
    }
    for i, one in enumerate(said.evaluation):
        if known.get(one.set, EvalPurpose.HARM) not in (EvalPurpose.HARM, *UTILITY):
            raise ConfigError(
                f"trials.evaluation[{i}].set",
                f"nothing is chosen by '{one.set}', of purpose '{known[one.set]}'", "leave it out",
            )  # fmt: skip
    asked = [known[one.set] for one in said.evaluation if one.set in known]
    harm = [one.set for one in said.evaluation if known.get(one.set) is EvalPurpose.HARM]
    if len(harm) > 1:
        names = " and ".join(f"'{name}'" for name in harm)
        raise ConfigError("trials.evaluation", f"{names} both give harm", "keep one")
    if not set(asked) & {*UTILITY}:
        names = [name for name, purpose in known.items() if purpose in UTILITY]
        raise ConfigError(
            "trials.evaluation", "no set gives utility", f"add {' or '.join(names)}" if names
            else "add a source that brings a set of purpose exact or options",
        )  # fmt: skip
    return known


def _place(where: str, trials: Sequence[Trial]) -> str:
    """Name a place in the study as one in the file of trials."""
    for trial in trials:
        inside = f"study.lineups.{trial.lineup}["
        if where.startswith(inside):
            return f"trials.methods.{trial.method}, trial {trial.number}[{where[len(inside) :]}"
    return where.replace("study.", "trials.", 1)


def labels(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Give each attacker's choice as (attacker, variant, what a log calls it)."""
    for attacker, variants in plan.variants.items():
        for variant in variants:
            yield attacker, variant, f"{attacker} {variant}".strip()
