"""Figures that somebody published, and which cells of a study they stand beside."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from holdfast.api import Judge
from holdfast.api.fields import AsTuple, Fields
from holdfast.data.records import read_text
from holdfast.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from holdfast.study.file import Study
    from holdfast.study.parts import Parts

COLUMNS = ("table", "model", "method", "set", "budget", "measure", "value")
"""Columns of a file of figures."""


class TheirSet(Fields):
    """What a set of prompts is called there, and under which attack it was asked."""

    theirs: str
    """The set's name in the file."""
    attack: str | None = None
    """The attacker whose models are meant; None means the released models alone."""
    variant: str | None = None
    """Which of the attacker's choices, by its label as tables show it; None means the first."""


class Measure(Fields):
    """What of ours a published measure stands beside."""

    of: Literal["score", "harmful", "correct"]
    """A judge's mean score, its share of harmful answers, or the share of right answers."""
    judge: str | None = None
    """Who gives the score or the harmful answers."""


class Published(Fields):
    """Published figures that tables show beside the study's own."""

    file: str
    """A CSV file with the columns table, model, method, set, budget, measure and value. Lines that
    begin with # say where its figures come from; tables repeat them."""
    model: str
    """The model whose figures are shown, as the file calls it."""
    tables: Annotated[tuple[str, ...], AsTuple] = ()
    """Which tables of the file; empty means all."""
    lineups: Annotated[dict[str, str], Field(min_length=1)]
    """Line-up -> the method's name in the file."""
    sets: Annotated[dict[str, TheirSet], Field(min_length=1)]
    """Evaluation set -> its place in the file."""
    measures: Annotated[dict[str, Measure], Field(min_length=1)]
    """Measure of the file -> ours."""
    comparable: bool = False
    """Whether judge and prompts are the same as theirs. Where not, tables say so."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One published figure and the cell of ours that it stands beside."""

    table: str
    method: str
    lineup: str
    set: str
    attack: str
    variant: str
    budget: float
    judge: str
    of: str
    value: float


def figures(said: Published, study: Study, parts: Parts) -> dict[str, Any]:
    """Give what tables need of the published figures, as plain data.

    Returns:
        `notes` (the file's lines of comment), `comparable` and `cells`, a `Figure` each.

    Raises:
        ConfigError: a name that leads nowhere, here or in the file, or no figure with a cell here.
        DataError: the file is no such table.
    """
    notes, rows = _read(Path(said.file))
    where = "study.published"
    _known([said.model], (row["model"] for row in rows), f"{where}.model", "model", said.file)
    rows = [row for row in rows if row["model"] == said.model]
    tables = (row["table"] for row in rows)
    _known(said.tables, tables, f"{where}.tables", "table", said.file)
    rows = [row for row in rows if not said.tables or row["table"] in said.tables]
    for ours, theirs in said.lineups.items():
        _ours(ours, study.lineups, f"{where}.lineups", "line-up")
        methods = (row["method"] for row in rows)
        _known([theirs], methods, f"{where}.lineups.{ours}", "method", said.file)
    places = {ours: _place(ours, one, study, parts, said, rows) for ours, one in said.sets.items()}
    for theirs, one in said.measures.items():
        _measure(theirs, one, parts.judges, said, rows)
    cells = [
        Figure(row["table"], row["method"], lineup, name, attack, variant, budget, one.judge or "",
               one.of, _number(row["value"], said.file))
        for row in rows
        for lineup, method in said.lineups.items() if method == row["method"]
        for name, (attack, variant, budgets) in places.items()
        if said.sets[name].theirs == row["set"]
        for budget in [_number(row["budget"], said.file)] if budget in budgets
        for theirs, one in said.measures.items() if theirs == row["measure"]
    ]  # fmt: skip
    if not cells:
        raise ConfigError(
            where, "none of the figures has a cell in this study", "check tables, sets and budgets"
        )
    told = [asdict(one) for one in cells]
    return {"notes": notes, "comparable": said.comparable, "cells": told}


def _place(
    name: str,
    one: TheirSet,
    study: Study,
    parts: Parts,
    said: Published,
    rows: Sequence[Mapping[str, str]],
) -> tuple[str, str, set[float]]:
    """Give the attacker, its choice and the budgets at which a set is asked; 0 is the release."""
    where = f"study.published.sets.{name}"
    asked = [wanted.set for wanted in study.evaluation if wanted.side == "evaluator"]
    _ours(name, asked, "study.published.sets", "set asked of the evaluator")
    _known([one.theirs], (row["set"] for row in rows), f"{where}.theirs", "set", said.file)
    if one.attack is None:
        return "", "", {0.0}
    _ours(one.attack, parts.attacks, f"{where}.attack", "attacker")
    labels = parts.variants[one.attack]
    variant = labels[0] if one.variant is None else one.variant
    _ours(variant, labels, f"{where}.variant", f"choice of {one.attack}")
    choice = parts.attacks[one.attack][labels.index(variant)]
    return one.attack, variant, {0.0, *map(float, choice.points())}


def _measure(
    theirs: str,
    one: Measure,
    judges: Sequence[Judge],
    said: Published,
    rows: Sequence[Mapping[str, str]],
) -> None:
    """Refuse a measure that the file does not have, or whose judge this study does not ask."""
    where = f"study.published.measures.{theirs}"
    names = (row["measure"] for row in rows)
    _known([theirs], names, "study.published.measures", "measure", said.file)
    if one.of == "correct":
        if one.judge is not None:
            raise ConfigError(f"{where}.judge", "right answers have no judge", "leave it out")
        return
    known = [judge.name() for judge in judges if not judge.tells_right]
    if one.judge is None:
        raise ConfigError(f"{where}.judge", "no judge", f"name one: {', '.join(known)}")
    _ours(one.judge, known, f"{where}.judge", "judge")


def _ours(name: str, known: Iterable[str], where: str, what: str) -> None:
    known = list(known)
    if name not in known:
        raise ConfigError(where, f"no {what} '{name}'", did_you_mean(name, known))


def _known(names: Iterable[str], known: Iterable[str], where: str, what: str, file: str) -> None:
    found = list(dict.fromkeys(known))
    for name in names:
        if name not in found:
            told = f"{file} has no {what} '{name}'"
            raise ConfigError(where, told, did_you_mean(name, found))


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a file of figures: its lines of comment and its rows."""
    if not path.is_file():
        raise ConfigError(
            "study.published.file", f"no such file: {path}", "name it from where you run the study"
        )
    lines = read_text(path).splitlines()
    notes = [line.lstrip("# ").strip() for line in lines if line.startswith("#")]
    reader = csv.DictReader(line for line in lines if not line.startswith("#"))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(str(path), f"no column {', '.join(missing)}", "see docs/studies.md")
    return notes, [dict(row) for row in reader]


def _number(text: str | None, file: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise DataError(file, f"{text!r} is no number", "mend the figure") from None
