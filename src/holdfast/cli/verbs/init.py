"""`holdfast init`: write a study for a model and files of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.drafting import (
    Benign,
    BudgetWord,
    FormatGiven,
    Given,
    Judges,
    Restricted,
    drafted,
)
from holdfast.cli.folders import try_writing
from holdfast.cli.options import Columns, Model, Original
from holdfast.cli.saying import say
from holdfast.errors import ConfigError


def init(
    study: Annotated[Path, typer.Argument(help="The study file to write (YAML).")],
    model: Model,
    restricted: Restricted = None,
    benign: Benign = None,
    original: Original = None,
    judge: Judges = None,
    budget: BudgetWord = None,
    purpose: Annotated[
        str,
        typer.Option("--for", help="compare (defences), harden (one of them) or assess (none)."),
    ] = "compare",
    form: FormatGiven = None,
    column: Columns = None,
) -> None:
    """Write a study for your model and files, with comments. `holdfast plan` takes it as it is."""
    from holdfast import disk
    from holdfast.study.plan import Plan

    if study.exists():
        raise ConfigError(str(study), "is there already", "name another file")
    try_writing(study, "STUDY")
    made = drafted(
        Given(
            model=model,
            restricted=restricted,
            benign=benign,
            original=original,
            judges=judge or (),
            budget=budget,
            form=form,
            column=column or (),
            purpose=purpose,
            where="--model",
        )
    )
    Plan(made.study)
    disk.write_bytes(study, made.text.encode())
    for line in made.said:
        say(line)
    say(f"study: {study}; next: holdfast plan {shlex.quote(str(study))}")
