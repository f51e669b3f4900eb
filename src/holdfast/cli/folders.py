"""What a command makes is there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast import disk
from holdfast.errors import ConfigError


@contextmanager
def whole_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Give a temporary folder that becomes `out` when whole, and one for checkpoints beside it."""
    if out.exists():
        raise ConfigError("--out", f"{out} exists", "name a folder that does not")
    work = out.with_name(f".{out.name}.work")
    with disk.whole_folder(out) as temporary:
        work.mkdir(exist_ok=True)
        yield temporary, work
    shutil.rmtree(work, ignore_errors=True)


def whole_file(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines; a kill leaves the old file or the new one."""
    from holdfast.engine.store import write_lines

    with disk.whole_file(out) as part:
        write_lines(part, rows)
