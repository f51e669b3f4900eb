"""Commands on the offline world: build, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Build the offline world's models, or check the shipped ones.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", help="Folder for both models.")],
) -> None:
    """Build the world's two models from nothing."""
    from holdfast.world import build as world

    world.build(out)
    typer.echo(f"built: {out}")


@app.command()
def check() -> None:
    """Build the world again and compare it with what the package ships."""
    from holdfast.world import build as world

    world.check()
    typer.echo("the shipped world is as it should be")
