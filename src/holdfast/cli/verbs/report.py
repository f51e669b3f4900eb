"""`holdfast report`: write a finished study's report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.conduct import exit_code, finish
from holdfast.cli.options import Report, ShowText, StoreFolder
from holdfast.cli.writing import STATE
from holdfast.errors import ConfigError


def report(
    study: Annotated[
        Path, typer.Argument(help="The study file, or a folder with a study's tables.")
    ],
    store: StoreFolder = Path("runs"),
    out: Report = None,
    show_text: ShowText = False,
) -> int:
    """Write a finished study's report again, from the store or from its tables alone."""
    if study.is_dir():
        return _report_tables(study, store, out, show_text)
    if study.suffix == ".parquet":
        raise ConfigError(str(study), "is a table", f"give its folder, {study.parent}")
    from holdfast.engine import tables
    from holdfast.engine.store import Store
    from holdfast.study.file import load_study
    from holdfast.study.plan import Plan

    made, kept = Plan(load_study(study)), Store(store)
    tables.check_whole(made, kept)
    with kept.held():
        return finish(made, kept, out or store / made.study.name, show_text, again=True)


def _report_tables(folder: Path, store: Path, out: Path | None, show_text: bool) -> int:
    """Write the report that tables tell, however long ago and wherever they were made."""
    from holdfast.engine import tables
    from holdfast.engine.store import writing
    from holdfast.report import answer
    from holdfast.report.files import write_findings
    from holdfast.report.saved import Saved

    saved = Saved.read(folder)
    own = store / saved.meta["name"]
    if out is None and (own / STATE).exists() and own.resolve() != folder.resolve():
        what = f"{own} holds a run of the study of that name"
        raise ConfigError(str(folder), what, "name another folder with --out")
    out = out or own
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / STATE).unlink(missing_ok=True)  # a run of the study itself writes all of it again
    found = write_findings(saved.tables(), out, show_text=show_text)
    typer.echo(f"report: {out / 'report.html'}")
    for sentence in answer.short(found):
        typer.echo(sentence)
    return exit_code(tables.invalid(saved.outcomes.to_pylist()))
