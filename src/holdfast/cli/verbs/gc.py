"""`holdfast gc`: remove what no study needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import StoreFolder
from holdfast.cli.saying import say
from holdfast.errors import ConfigError


def gc(
    studies: Annotated[list[Path], typer.Argument(help="The study files whose steps are kept.")],
    store: StoreFolder = Path("runs"),
    delete: Annotated[bool, typer.Option("--delete", help="Really remove them.")] = False,
) -> None:
    """Name what no given study needs any more; with --delete, remove it."""
    from holdfast.engine.store import Store
    from holdfast.study.file import load_study
    from holdfast.study.plan import Plan

    needed: dict[str, set[str]] = {}
    for path in studies:
        plan = Plan(load_study(path))
        for kind, keys in [*plan.needed.items(), ("audit", {plan.audited})]:
            needed.setdefault(kind, set()).update(keys)
    if not store.is_dir():
        raise ConfigError(str(store), "no such store", "name it with --store")
    kept = Store(store)
    with kept.held():
        found = kept.unneeded(needed)
        size = 0
        for path in found:
            size += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            say(f"{path.parent.name}/{path.name[:16]}")
            if delete:
                shutil.rmtree(path)
    what = "removed" if delete else "not needed (nothing removed: add --delete)"
    say(f"{len(found)} artefacts, {size / 2**20:.1f} MiB {what}")
