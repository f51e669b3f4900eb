"""Every line a command shows goes through here: nothing in it can move a terminal's cursor."""

from __future__ import annotations

import typer

from holdfast.errors import harmless


def say(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Show a line, on stderr if `err`; what cannot be seen in it is spelt out."""
    typer.echo(harmless(str(text)), err=err, nl=nl)
