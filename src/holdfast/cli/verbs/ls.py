"""`holdfast ls`: list the methods there are."""

from __future__ import annotations

from typing import Annotated

import typer


def ls(
    kind: Annotated[
        str | None, typer.Argument(help="defence, attack, judge or source; all without it.")
    ] = None,
) -> None:
    """List the methods of this package and of installed plugins."""
    from holdfast.api.registry import KINDS, about, names, origin

    kinds = [kind] if kind is not None else list(KINDS)
    for one in kinds:
        known = names(one)
        for name in known:
            where = origin(one, name)
            said = about(one, name)
            typer.echo(f"{one:<9}{name:<17}{'' if where == 'holdfast' else f'[{where}] '}{said}")
