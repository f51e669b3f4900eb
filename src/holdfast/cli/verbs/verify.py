"""`holdfast verify`: whether every artefact of a store is as it was written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.saying import say
from holdfast.errors import ConfigError, StoreError


def verify(
    store: Annotated[Path, typer.Argument(help="The folder where finished steps are kept.")],
    drop: Annotated[bool, typer.Option("--drop", help="Remove what is broken.")] = False,
) -> None:
    """Check every file of a store; with --drop, remove what is broken: `run` makes it again.

    What an unfinished step keeps is not read: `run` checks it, and drops it where it is damaged.
    """
    from holdfast.engine.store import KINDS, Store

    if not store.is_dir():
        raise ConfigError(str(store), "no such store", "name the folder of one")
    if not any((store / kind).is_dir() for kind in (*KINDS, "work")):
        what, todo = "holds no finished step", "name the folder that --store named"
        raise ConfigError(str(store), what, todo)
    kept, broken, old, whole = Store(store), 0, 0, 0
    with kept.held():
        for kind, key in [(one, key) for one in KINDS for key in sorted(kept.keys(one))]:
            try:
                kept.checked(kind, key)
                old, whole = old + (not kept.sealed(kind, key)), whole + 1
            except StoreError as error:
                broken += 1
                say(f"{error.where}: {error.what}{'; removed' if drop else ''}")
                if drop:
                    shutil.rmtree(kept.path(kind, key))
    say(f"{whole} artefacts whole, {broken} broken{' and removed' if drop else ''}")
    if old:
        say(f"{old} of the whole ones are of an older version without hashes: not verified")
    if broken and not drop:
        raise StoreError(str(store), f"{broken} artefacts are broken", "add --drop to remove them")
