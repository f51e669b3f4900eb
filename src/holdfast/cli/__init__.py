"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from holdfast import __version__
from holdfast.cli.saying import say
from holdfast.cli.verbs import (
    assess,
    attack,
    calibrate,
    defend,
    demo,
    doctor,
    gate,
    gc,
    generate,
    init,
    join,
    judge,
    kitchen,
    ls,
    moves,
    new,
    plan,
    report,
    rescore,
    schema,
    show,
    table,
    trials,
    tune,
    verify,
    world,
)
from holdfast.cli.verbs import run as run_study
from holdfast.disk import cache_folder, write_bytes
from holdfast.errors import HoldfastError, StoreError, raised, without_secrets

app = typer.Typer(
    name="holdfast",
    help="Measure what it costs to make an open-weight model unsafe, and raise that cost.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


STOPPED = 130
"""Exit code of a command that was stopped by hand, as shells have it."""


def _version(wanted: bool) -> None:
    if wanted:
        say(f"holdfast {__version__}")
        raise typer.Exit


TRACEBACK = "HOLDFAST_TRACEBACK"
"""The environment variable that asks for the whole of an error nobody expected."""
LAST_ERROR = "last-error.txt"
"""In the user's cache folder: the traceback of the last such error of a command."""


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


for command in (
    demo.demo,
    assess.assess,
    init.init,
    plan.plan,
    run_study.run,
    report.report,
    table.table,
    join.join,
    gate.gate,
    rescore.rescore,
    trials.trials,
    moves.moves,
    gc.gc,
    verify.verify,
    ls.ls,
    new.new,
    show.show,
    schema.schema,
    doctor.doctor,
    defend.defend,
    tune.tune,
    attack.attack,
    generate.generate,
    judge.judge,
    calibrate.calibrate,
):  # the order of `holdfast --help`
    app.command()(command)
app.add_typer(world.app, name="world")
app.add_typer(kitchen.app, name="kitchen")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code.

    0 done, 1 a step failed, 2 the input is wrong, 3 results are invalid, 4 and 5 what `gate` and
    `assess` found, 130 stopped by hand.
    """
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command and give its exit code; an error is one line on stderr."""
    try:
        with _logged():
            code = app(args=list(arguments), prog_name="holdfast", standalone_mode=False)
    except HoldfastError as error:
        _say(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = getattr(error, "format_message", None)  # typer's own: a wrong option or argument
        if message is None:
            if os.environ.get(TRACEBACK):
                raise
            _say(str(_unforeseen(error)))
            return HoldfastError.exit_code
        if type(error).__name__ == "NoArgsIsHelpError":
            say(message())
            return 2
        told = " ".join(message().split()).rstrip(".")
        _say(f"command line: {told[0].lower()}{told[1:]}; see `holdfast --help`")
        return 2
    if code == STOPPED:  # typer may also give the code of an interruption itself
        _say("run: stopped; the same command continues")
    return code if isinstance(code, int) else 0


def _unforeseen(error: Exception) -> HoldfastError:
    """Give an error that nobody expected as one line; its traceback goes into a file."""
    path = cache_folder() / LAST_ERROR
    try:
        text = without_secrets("".join(traceback.format_exception(error)))
        write_bytes(path, text.encode("utf-8", "backslashreplace"))
        path.chmod(0o600)
        todo = f"report it, with {path} (it may quote your rows)"
    except (StoreError, OSError):
        todo = f"set {TRACEBACK}=1 to see all of it (it may quote your rows), and report it"
    return HoldfastError("unforeseen", raised(error), todo)


class _Lines(logging.Handler):
    """Shows each record as a line of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record's text."""
        _say(record.getMessage())


@contextmanager
def _logged() -> Generator[None]:
    """Show what the package logs, such as that a model is being made, while a command runs."""
    log, lines = logging.getLogger("holdfast"), _Lines()
    level = log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(lines)


def _say(line: str) -> None:
    say(f"holdfast: {line}", err=True)
