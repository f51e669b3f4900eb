"""`holdfast demo`: run the packaged study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.conduct import conduct
from holdfast.cli.options import ShowText, Workers

FOLDERS = {False: Path("holdfast-demo"), True: Path("holdfast-demo-real")}
"""Where the offline world's demo and the real model's write to if nobody says otherwise."""


def demo(
    out: Annotated[
        Path | None,
        typer.Option("--out", help=f"Folder of store and report. [default: {FOLDERS[False]}]"),
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="A real small model in place of the offline world.")
    ] = False,
    workers: Workers = None,
    show_text: ShowText = False,
) -> int:
    """Run a packaged study: no network, GPU or token.

    It is of the offline world, or with --real of SmolLM2-135M-Instruct, which needs the extra
    `smol`, 10 minutes on two cores and 4 GB for each worker, and writes to holdfast-demo-real.
    """
    from holdfast.study.file import load_study
    from holdfast.testbeds import guild, kitchen

    said = load_study(kitchen.DEMO if real else guild.DEMO)
    out = out or FOLDERS[real]
    return conduct(said, out / "store", out, show_text=show_text, workers=workers)
