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
from holdfast.cli.saying import say
from holdfast.errors import ConfigError, StoreError


def try_making(out: Path) -> None:
    """Find out whether a folder can be made under `--out`, and leave nothing behind.

    Raises:
        ConfigError: it cannot.
    """
    _named(out, "--out")
    _try_in(out.absolute().parent, out)


@contextmanager
def whole_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Give a temporary folder that becomes `out` when whole, and one for checkpoints beside it.

    Raises:
        ConfigError: `out` exists, or another process is making it.
    """
    work = out.with_name(f".{out.name}.work")
    if not out.exists():
        with disk.alone(work) as ours:
            if not ours:
                what = f"{out} is being made by another process"
                raise ConfigError("--out", what, "wait for it, or name another folder")
            if not out.exists():
                with disk.whole_folder(out) as temporary:
                    yield temporary, work
                shutil.rmtree(work, ignore_errors=True)
                return
    raise ConfigError("--out", f"{out} exists", "name a folder that does not")


def finished(out: Path, run: str) -> bool:
    """Say whether `out` is what the same command made before, and tell.

    Args:
        run: the digest of what decides the result, as `holdfast.json` holds it under `run`.
    """
    from holdfast.nn.history import history

    if not (said := history(out) if out.is_dir() else []) or said[-1].get("run") != run:
        return False
    say(f"nothing to do: {out} is finished")
    return True


def outside(out: Path | None, store: Path, own: Path) -> None:
    """Refuse a report's folder inside the store, other than the study's own.

    Raises:
        ConfigError: its files would lie among the store's.
    """
    if out is None or out.resolve() == own.resolve():
        return
    if out.resolve().is_relative_to(store.resolve()):
        raise ConfigError("--out", f"{out} is inside the store", f"name a folder outside {store}")


def try_writing(out: Path, option: str, reads: Path | None = None) -> None:
    """Find out whether the file that an option names can be written, and leave nothing behind.

    Args:
        reads: the file that the command reads, which it must not write over.

    Raises:
        ConfigError: it is a folder, or that file, or cannot be written.
    """
    if reads is not None and disk.lies_at(reads) and reads.resolve() == out.resolve():
        raise ConfigError(option, f"{out} is the file that is read", "name another")
    if disk.lies_at(out) == "folder":
        raise ConfigError(option, f"{out} is a folder", "name a file")
    _try_in(out.absolute().parent, out)


def try_filling(out: Path, option: str) -> None:
    """Find out whether the folder that an option names can be written into; leave nothing behind.

    Raises:
        ConfigError: it is a file, or cannot be written into.
    """
    if disk.lies_at(out) == "file":
        raise ConfigError(option, f"{out} is a file", "name a folder")
    _named(out, option)
    _try_in(out.absolute(), out)


def _named(out: Path, option: str) -> None:
    if not out.name:  # the current folder, or the root
        raise ConfigError(option, f"'{out}' holds other things", "name a folder to be made in it")


def _try_in(folder: Path, out: Path) -> None:
    try:
        disk.beside(out).exists()  # its name there may be too long
        while not folder.exists():
            folder = folder.parent
        with disk.writing(out):
            try:
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except FileNotFoundError:  # /proc is such a one
                raise NotADirectoryError(ENOTDIR, f"{folder} takes no files") from None
    except StoreError as error:  # nothing has begun: it is the option that is wrong
        raise ConfigError(error.where, error.what, error.todo) from None
    except OSError as error:  # a name too long, or a folder that may not be entered
        why = (error.strerror or "no such name").lower()
        raise ConfigError(str(out)[:200], f"cannot be written ({why})", "name another") from None


def whole_file(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines; a kill leaves the old file or the new one."""
    from holdfast.engine.store import write_lines

    with disk.whole_file(out) as part:
        write_lines(part, rows)
