"""What a command makes is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.errors import ConfigError


@contextmanager
def whole_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Give a temporary folder that becomes `out` when whole, and one for checkpoints beside it."""
    from holdfast.engine.store import rename, sync, writing

    if out.exists():
        raise ConfigError("--out", f"{out} exists", "name a folder that does not")
    temporary = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    work = out.with_name(f".{out.name}.work")
    try:
        with writing(out):
            for stale in out.parent.glob(f".{out.name}.tmp-*"):
                shutil.rmtree(stale, ignore_errors=True)
            temporary.mkdir(parents=True)
            work.mkdir(exist_ok=True)
            yield temporary, work
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            rename(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


def whole_file(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines; a kill leaves the old file or the new one."""
    from holdfast.engine.store import rename, sync, write_lines, writing

    part = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_lines(part, rows)
            sync(part)
            rename(part, out)
    finally:
        part.unlink(missing_ok=True)
