"""What a command makes is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOTDIR
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


def try_writing(out: Path, option: str) -> None:
    """Find out whether the file that an option names can be written, and leave nothing behind.

    Raises:
        ConfigError: it is a folder.
        StoreError: it cannot be written.
    """
    if out.is_dir():
        raise ConfigError(option, f"{out} is a folder", "name a file")
    _try_in(out.absolute().parent, out)


def try_filling(out: Path, option: str) -> None:
    """Find out whether the folder that an option names can be written into; leave nothing behind.

    Raises:
        ConfigError: it is a file.
        StoreError: it cannot be written into.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(option, f"{out} is a file", "name a folder")
    _try_in(out.absolute(), out)


def _try_in(folder: Path, out: Path) -> None:
    while not folder.exists():
        folder = folder.parent
    with disk.writing(out):
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except FileNotFoundError:  # /proc is such a one
            raise NotADirectoryError(ENOTDIR, f"{folder} takes no files") from None


def whole_file(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines; a kill leaves the old file or the new one."""
    from holdfast.engine.store import write_lines

    with disk.whole_file(out) as part:
        write_lines(part, rows)
