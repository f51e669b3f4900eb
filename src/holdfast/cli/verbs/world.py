"""Commands on the offline world: build, check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.saying import say
from holdfast.errors import ConfigError, InvalidResultsError

app = typer.Typer(
    help="Build the offline world's models, or check the shipped ones.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[
    Path | None, typer.Option("--folder", help="A built world. [default: the shipped one]")
]
Small = Annotated[bool, typer.Option("--small", help="The small world of the tests.")]


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", help="Folder for both models.")] = Path("world"),
    small: Small = False,
    check: Annotated[
        bool, typer.Option("--check", help="Build again and compare with --folder; keep nothing.")
    ] = False,
    folder: Folder = None,
) -> int:
    """Build the world's two models from nothing (minutes), or compare a rebuilt world."""
    from holdfast.testbeds.guild import build as world

    if check:
        return _judged(world.rebuild(_whole(folder or world.shipped()), report=typer.echo))
    if out.exists() and not (out / world.MANIFEST).is_file():
        raise ConfigError("--out", f"{out} exists and is no world", "name another folder")
    say(f"built: {world.build(out, small=small, report=typer.echo)}")
    return 0


@app.command()
def check(folder: Folder = None) -> int:
    """Measure a built world against its bars (a minute)."""
    from holdfast.testbeds.guild import build as world

    return _judged(world.check(_whole(folder or world.shipped()), report=typer.echo))


def _whole(folder: Path) -> Path:
    from holdfast.nn.files import resolve
    from holdfast.testbeds.guild import build as world

    if not (folder / world.MANIFEST).is_file():
        raise ConfigError("--folder", f"{folder} holds no built world", "build it first")
    for name in world.NAMES:
        resolve(str(folder / name), "--folder")
    return folder


def _judged(bars: Sequence[Any]) -> int:
    failed = [bar for bar in bars if not bar.ok]
    if failed:
        raise InvalidResultsError(
            "world", f"{len(failed)} of {len(bars)} bars fail ({failed[0].text})", "build it again"
        )
    say(f"all {len(bars)} bars hold")
    return 0
