"""`holdfast table`: a finished study's figures as Markdown or CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.saying import say
from holdfast.errors import ConfigError, DataError, did_you_mean


def table(
    folder: Annotated[Path, typer.Argument(help="A folder with a finished study's tables.")],
    kinds: Annotated[
        list[str] | None,
        typer.Argument(metavar="KIND...", help="Tables to print; without any, they are listed."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold", help="Harmful rate that counts as broken. [default: the first]"
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", help="The line-up to compare with, or how the names of several begin."
        ),
    ] = None,
    side: Annotated[str, typer.Option("--side", help="Whose prompts shares are of.")] = "evaluator",
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Print figures of a finished study as tables, from its rows alone."""
    from holdfast.report.markdown import comma_separated, markdown
    from holdfast.report.saved import TODO, Saved
    from holdfast.report.tables import KINDS, Tabled

    for kind in kinds or ():
        if kind not in KINDS:
            raise ConfigError("table", f"no table '{kind}'", did_you_mean(kind, KINDS))
    if not kinds:
        if not (folder / "outcomes.parquet").is_file():
            raise DataError(str(folder), "holds no outcomes.parquet", TODO)
        wide = max(map(len, KINDS)) + 2
        for name, make in KINDS.items():
            say(f"{name:<{wide}}{(make.__doc__ or '').splitlines()[0]}")
        return
    study = Tabled(Saved.read(folder), threshold=threshold, reference=reference, side=side)
    for kind in kinds:
        made = KINDS[kind](study)
        say(comma_separated(made, kind) if csv else markdown(made), nl=False)
