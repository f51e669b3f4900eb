"""Run a study from its plan to its report."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast import __version__
from holdfast.cli.folders import try_filling
from holdfast.cli.saying import say
from holdfast.cli.writing import write_report
from holdfast.errors import ConfigError, DataError, HoldfastError, InvalidResultsError, StoreError
from holdfast.report.written import STATE, as_written, state_of

if TYPE_CHECKING:
    from holdfast.engine.show import Done
    from holdfast.engine.store import Store
    from holdfast.study.file import Study
    from holdfast.study.plan import Plan


def conduct(
    said: Study,
    store: Path,
    out: Path | None,
    *,
    show_text: bool = False,
    workers: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    keep_weights: bool = False,
    only_judge: bool = False,
) -> int:
    """Plan a study, do what is left, write the report if it is new; give the exit code."""
    from holdfast.cli.progress import display
    from holdfast.engine import local, tables
    from holdfast.engine.store import Store
    from holdfast.study.plan import Plan

    workers, own = workers_of(workers), store / said.name
    if out is not None:  # a store is made only where the report can be
        try_filling(out, "--out")
    began = time.monotonic()
    made, kept = Plan(said), Store(store)
    if only_judge and not kept.keys("generate"):  # nothing was ever asked: no store is made
        tables.check_whole(made, kept)
    planned = time.monotonic()
    folder = out or own
    show = display()
    with kept.held():
        try:
            try_filling(folder, "--out")
            fits = None if only_judge else (device, workers)
            if (line := _checked(made, kept, fits)) is not None:
                show.say(line)
            done = local.run(
                made,
                kept,
                workers=workers,
                threads=threads,
                device=device,
                keep_weights=keep_weights,
                only_judge=only_judge,
                show=show,
            )
        finally:
            show.close()
        if done.failures:
            raise _failed(made, kept, folder, show_text, done)
        if only_judge:
            tables.check_whole(made, kept)
        after = time.monotonic()
        try:
            return finish(made, kept, folder, show_text, did=done.finished)
        finally:
            if done.finished:
                say(
                    f"planned in {planned - began:.1f} s, {done.finished} steps in "
                    f"{done.seconds:.1f} s, tables and report in {time.monotonic() - after:.1f} s",
                    err=True,
                )


def workers_of(given: int | None) -> int:
    """Give how many processes run steps: as given, else 2, or the cores if fewer.

    Raises:
        ConfigError: fewer than 1.
    """
    if given is not None and given < 1:
        raise ConfigError("--workers", f"got {given}", "give at least 1")
    return given or min(2, os.cpu_count() or 1)


def _checked(made: Plan, kept: Store, fits: tuple[str, int] | None) -> str | None:
    """Refuse what cannot run, before anything does; give the line on what sides share, if any.

    Args:
        fits: the device and the workers that must hold what is left; None where nothing trains.
    """
    from holdfast.engine import leakage
    from holdfast.engine.fit import check_fit
    from holdfast.engine.judging import check_judges
    from holdfast.engine.work import left

    line = None
    if made.study.leakage.refuse_above is not None or not left(made, kept).nothing:
        shared = leakage.leakage(made, kept, keep=True)
        leakage.check(made, shared)
        line = leakage.said(shared)
    check_judges(made, kept)
    if fits is not None:
        device, workers = fits
        check_fit(made, kept, device=device, workers=workers)
    return line


def _failed(made: Plan, kept: Store, out: Path, show_text: bool, done: Done) -> HoldfastError:
    """Give the error of a run of which steps failed, the other failures told, the rest reported."""
    first, *others = done.failures
    for error in others[:4]:
        say(f"also: {error}", err=True)
    if len(others) > 4:
        say(f"and {len(others) - 4} more failures", err=True)
    if done.held_up:
        say(f"{done.held_up} more steps could not start", err=True)
    told = ""
    if not any(isinstance(error, StoreError) for error in done.failures):
        told = _in_spite_of(made, kept, out, show_text, done.failures)
    # Whatever its class: the input was fine as far as a plan can tell, and a step failed.
    return HoldfastError(first.where, first.what, f"{first.todo}{told}")


def _in_spite_of(
    made: Plan, kept: Store, out: Path, show_text: bool, failures: Sequence[HoldfastError]
) -> str:
    """Report what there is though steps failed; say where, or nothing where there is too little."""
    try:
        write_report(made, kept, out, show_text, "", failures)
    except DataError:  # not one restricted prompt was answered and judged
        with contextlib.suppress(OSError):
            out.rmdir()  # only where nothing else is in it
        return ""
    return f"; the rest is in {out / 'report.html'}, which names what is missing"


def finish(
    made: Plan,
    kept: Store,
    out: Path,
    show_text: bool,
    *,
    again: bool = False,
    did: int = 0,
) -> int:
    """Write tables and report unless they are there; give 0, or 3 when cells are invalid."""
    from holdfast.study.keys import digest

    page = out / "report.html"
    said = made.study.model_dump(mode="json")
    state = digest([made.fingerprint, said, __version__, show_text])
    found = state_of(out / STATE)
    if not again and found.get("state") == state and as_written(out, found):
        say(f"nothing to do: the report is at {page}" if not did else f"report: {page}")
    else:
        found = write_report(made, kept, out, show_text, state)
        say(f"report: {page}")
    for sentence in found["short"]:
        say(sentence)
    return exit_code(found["invalid"])


def exit_code(invalid: list[str]) -> int:
    """Give 0; raise what exits with 3 where cells are invalid."""
    if invalid:
        first, *others = invalid
        more = f" (and {len(others)} more cells)" if others else ""
        raise InvalidResultsError("results", f"{first}{more}", "they may not rank; see the report")
    return 0
