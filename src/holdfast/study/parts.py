"""Everything a study names, made: its methods, their rows, the models they start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from holdfast.api import Attack, Chain, Defence, Judge, Method, Source, TrainedAttack, WeightAttack
from holdfast.api.registry import make
from holdfast.data.pool import Pool
from holdfast.errors import ConfigError, HoldfastError
from holdfast.study.checks import find_start, one_unit, unique, variants
from holdfast.study.file import Study
from holdfast.study.hosting import Hosting, host
from holdfast.study.nodes import Start
from holdfast.study.standins import StandIns
from holdfast.study.tuning import HonestTuning

Kind = TypeVar("Kind", bound=Method)


@dataclass(frozen=True, slots=True)
class Parts:
    """A study's methods by their names in it.

    `attack_pool` holds the rows that attackers see: those of `pool`, but for a rehearsal.
    `variants` are the labels of an attacker's choices, in the order of `attacks`; `original` is
    the public original, where the study names one; `tuning` is honest fine-tuning and `hosting`
    what customers do on a host's loop, where the study has any.
    """

    sources: Sequence[Source]
    judges: Sequence[Judge]
    lineups: Mapping[str, Sequence[Defence]]
    pool: Pool
    attack_pool: Pool
    attacks: Mapping[str, Sequence[Attack]]
    variants: Mapping[str, Sequence[str]]
    starts: Mapping[str, Start]
    original: Start | None
    tuning: HonestTuning | None = None
    hosting: Hosting | None = None


def gather(study: Study, *, rehearsal: bool = False, stand_ins: StandIns | None = None) -> Parts:
    """Make every part of a study; with `stand_ins`, of what is not on this machine too.

    Raises:
        ConfigError, DataError, ModelError: the first part that cannot be made.
    """
    sources = [
        _is(make("source", data, f"study.sources[{i}]"), Source)
        for i, data in enumerate(study.sources)
    ]
    if stand_ins is not None:
        sources = [
            stand_ins.source(source, f"study.sources[{i}]") for i, source in enumerate(sources)
        ]
    judges = [
        _is(make("judge", data, f"study.judges[{i}]"), Judge) for i, data in enumerate(study.judges)
    ]
    unique([judge.name() for judge in judges], "study.judges")
    lineups = {
        name: [
            _is(make("defence", data, f"study.lineups.{name}[{i}]"), Defence)
            for i, data in enumerate(lineup.defences)
        ]
        for name, lineup in study.lineups.items()
    }
    pool = Pool.of(sources)
    attack_pool = pool.rehearsal() if rehearsal else pool
    attacks = {
        name: [
            choice
            for i, data in enumerate(choices)
            for choice in _choices(data, attack_pool, f"study.attacks.{name}[{i}]")
        ]
        for name, choices in study.attacks.items()
    }
    for name, choices in attacks.items():
        one_unit(choices, f"study.attacks.{name}")
    labels = {name: variants(cs, f"study.attacks.{name}") for name, cs in attacks.items()}
    find = find_start if stand_ins is None else stand_ins.start
    starts = {name: find(name, entry) for name, entry in study.models.items()}
    return Parts(
        sources=sources,
        judges=judges,
        lineups=lineups,
        pool=pool,
        attack_pool=attack_pool,
        attacks=attacks,
        variants=labels,
        starts=starts,
        original=starts[study.original] if study.original else None,
        tuning=_tuning(study),
        hosting=host(study),
    )


def _tuning(study: Study) -> HonestTuning | None:
    """Make the honest fine-tuning that a study asks for."""
    if study.tuning is None:
        return None
    try:
        return HonestTuning.of(study.tuning)
    except ConfigError as error:
        place = error.where.removeprefix("HonestTuning.").replace("evaluate_at", "budgets")
        raise ConfigError(f"study.tuning.{place}", error.what, error.todo) from None


def _choices(data: object, pool: Pool, where: str) -> list[Attack]:
    """Make an attacker's choice, or those it stands for; a list of two is a chain."""
    made: Attack
    if isinstance(data, list):
        parts = [_is(make("attack", one, f"{where}[{i}]"), Attack) for i, one in enumerate(data)]
        made = chain(parts, where)
    else:
        made = _is(make("attack", data, where), Attack)
    try:
        return list(made.expand(pool))
    except HoldfastError as error:
        raise type(error)(f"{where}: {error.where}", error.what, error.todo) from None


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


def _is(method: Method, kind: type[Kind]) -> Kind:
    assert isinstance(method, kind)
    return method
