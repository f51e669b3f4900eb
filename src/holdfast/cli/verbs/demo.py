"""`holdfast demo`: run the packaged study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.conduct import conduct
from holdfast.cli.options import ShowText, Workers


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of store and report.")] = Path(
        "holdfast-demo"
    ),
    workers: Workers = None,
    show_text: ShowText = False,
) -> int:
    """Run the packaged study on the offline world: no network, GPU or token."""
    from holdfast.study.file import load_study
    from holdfast.testbeds import guild

    said = load_study(guild.DEMO)
    return conduct(said, out / "store", out, show_text=show_text, workers=workers)
