"""`holdfast trials`: hyper-parameter search, equal trials for every method."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.device import Device
from holdfast.cli.saying import say
from holdfast.errors import HoldfastError, InvalidResultsError

if TYPE_CHECKING:
    from holdfast.cli.progress import Bars, Lines
    from holdfast.engine.trials import Log


def trials(
    file: Annotated[Path, typer.Argument(help="The file of trials (YAML).")],
    log: Annotated[
        Path | None, typer.Option("--log", help="Finished trials. [default: FILE, as .jsonl]")
    ] = None,
    store: Annotated[Path, typer.Option("--store", help="Where finished steps are kept.")] = Path(
        "runs"
    ),
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Processes. [default: 2, or the cores if fewer]"),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Arithmetic threads of each.")
    ] = 1,
    device: Device = "cpu",
    csv: Annotated[bool, typer.Option("--csv", help="Print the tables as CSV.")] = False,
) -> None:
    """Try hyper-parameters on the defender's sides and name the winners; run again to continue."""
    from holdfast.engine.trials import Log
    from holdfast.study.trials import load_trials

    kept = Log(log or file.with_suffix(".jsonl"), load_trials(file))
    failures: list[HoldfastError] = []
    if kept.left:
        workers = workers or min(2, os.cpu_count() or 1)
        failures = _run(kept, store, workers, threads, device)
    _print(kept, csv)
    if failures:
        first, *others = failures
        for error in others[:4]:
            say(f"also: {error}", err=True)
        raise HoldfastError(first.where, first.what, first.todo)


def _run(log: Log, folder: Path, workers: int, threads: int, device: str) -> list[HoldfastError]:
    """Do what is left; give the failures that may pass another time."""
    from holdfast.cli.progress import display
    from holdfast.engine.fit import check_fit
    from holdfast.engine.store import Store
    from holdfast.engine.trials import run
    from holdfast.engine.work import left
    from holdfast.study.rehearsal import rehearse

    store = Store(folder)
    plan = rehearse(log.said, log.left)
    work = left(plan, store)
    say(
        f"{len(log.left)} of {len(log.trials)} trials to do: at most {work.steps:,} optimiser "
        f"steps, {work.generations:,} answers",
        err=True,
    )
    show = display()
    with store.held():
        try:
            check_fit(plan, store, device=device, workers=workers)
            done = run(
                log, plan, store, show=show, tell=_Clock(show),
                workers=workers, threads=threads, device=device,
            )  # fmt: skip
        finally:
            show.close()
    return done.failures


class _Clock:
    """Says of each trial that it is logged, and how long the others may take."""

    def __init__(self, show: Bars | Lines) -> None:
        self.show, self.began, self.done = show, time.monotonic(), 0

    def __call__(self, name: str, left: int) -> None:
        self.done += 1
        minutes = (time.monotonic() - self.began) / self.done * left / 60
        about = "none left" if not left else f"{left} left, about {minutes:.0f} min"
        self.show.say(f"trial {name} is in the log; {about}")


def _print(log: Log, csv: bool) -> None:
    """Print what the log holds: every trial, the winners and why."""
    from holdfast.report.markdown import comma_separated, markdown
    from holdfast.report.trials import fields, results, tables, winners

    found = results(log.trials, log.said.seeds, log.lines)
    chosen = winners(log.said, found)
    if not chosen:
        failed = [one.failed for one in found if one.failed][:1]
        why = f"the start was not measured ({failed[0]})" if failed else "has no trials yet"
        todo = "mend that, remove its line and " if failed else ""
        raise InvalidResultsError(str(log.path), why, f"{todo}run the same command again")
    made = tables(log.said, log.trials, chosen)
    say(comma_separated(made, "trials") if csv else markdown(made), nl=False)
    if csv:
        return
    for name, one in chosen.items():
        if one.winner is not None:
            say(f"{name}: {fields(log.trials, one.winner)}")
    if log.left:
        say(f"{len(log.left)} trials are not in the log yet: run the same command again")
