"""`holdfast report`: write a finished study's report again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.conduct import exit_code, finish
from holdfast.cli.folders import outside
from holdfast.cli.options import Report, ShowText, StoreFolder
from holdfast.cli.saying import say
from holdfast.errors import ConfigError, HoldfastError
from holdfast.report.written import STATE


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
    own = store / made.study.name
    outside(out, store, own)
    tables.check_whole(made, kept)
    with kept.held():
        return finish(made, kept, out or own, show_text, again=True)


def _report_tables(folder: Path, store: Path, out: Path | None, show_text: bool) -> int:
    """Write the report that tables tell, however long ago and wherever they were made."""
    from holdfast.disk import writing
    from holdfast.report import answer
    from holdfast.report.files import write_findings
    from holdfast.report.saved import Saved
    from holdfast.stats.cells import invalid
    from holdfast.stats.rows import Outcomes

    saved = Saved.read(folder)
    own = store / saved.meta["name"]
    if out is None and (own / STATE).exists() and own.resolve() != folder.resolve():
        what = f"{own} holds a run of the study of that name"
        raise ConfigError(str(folder), what, "name another folder with --out")
    outside(out, store, own)
    out = out or own
    new = not out.exists()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / STATE).unlink(missing_ok=True)  # a run of the study itself writes all of it again
    outcomes = Outcomes(saved.outcomes)
    try:
        found = write_findings({**saved.tables(), "outcomes": outcomes}, out, show_text=show_text)
    except HoldfastError:
        if new:
            shutil.rmtree(out, ignore_errors=True)
        raise
    say(f"report: {out / 'report.html'}")
    for sentence in answer.short(found):
        say(sentence)
    _check_complete(folder, found.meta.holes, out)
    return exit_code(invalid(outcomes))


def _check_complete(folder: Path, holes: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Raise what exits with 1, as the run did, where something could not be run."""
    if not holes:
        return
    first, *others = holes
    more = f" (and {len(others)} more)" if others else ""
    raise HoldfastError(
        str(folder),
        f"the study is incomplete: {first['what']} of '{first['lineup']}' could not be run{more}",
        f"run the study again; the rest is in {out / 'report.html'}, which names what is missing",
    )
