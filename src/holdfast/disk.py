"""What is written here is written whole: under another name first, flushed, then renamed.

What exists under its own name is finished; a write that fails leaves nothing behind.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from holdfast.errors import StoreError

SEAL = "sealed"
"""The field in which sealed data holds the hash of all its other fields."""

_FULL = re.compile(r"os error 28|no space left|file too large|disk quota", re.IGNORECASE)


def cache_folder() -> Path:
    """Give the user's folder for what can be made again; it need not exist.

    `$HOLDFAST_CACHE`, else `holdfast` in `$XDG_CACHE_HOME`, else in `~/.cache`.
    """
    own = os.environ.get("HOLDFAST_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "holdfast"


def lies_at(path: Path) -> str:
    """Say what lies at a path: `folder`, `file`, or "" where it is no name or nobody may look."""
    try:
        return "folder" if path.is_dir() else "file" if path.exists() else ""
    except OSError:  # such as a name that is too long
        return ""


@contextmanager
def whole_folder(
    target: Path, temporary: Path | None = None, *, replace: bool = False
) -> Generator[Path]:
    """Give an empty folder to fill, which becomes `target` when the block ends.

    Args:
        temporary: what the folder is called meanwhile, on the same file system; by default it lies
            beside `target`, and those that dead runs left there are removed.
        replace: remove a `target` that exists, once the new one is whole.

    Raises:
        StoreError: it cannot be written. After any error nothing is left of it.
    """
    if temporary is None:
        for stale in target.parent.glob(f".{target.name}.tmp-*"):
            shutil.rmtree(stale, ignore_errors=True)
        temporary = beside(target)
    try:
        with writing(target):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if replace and target.exists():
                shutil.rmtree(target)
            rename(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def whole_file(target: Path, temporary: Path | None = None) -> Generator[Path]:
    """Give a path to write to, whose file becomes `target`, old or new, when the block ends.

    Raises:
        StoreError: it cannot be written. After any error nothing is left of it.
    """
    part = temporary or beside(target)
    try:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield part
            sync(part)
            rename(part, target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole.

    Raises:
        StoreError: it cannot be written.
    """
    with whole_file(path) as part:
        part.write_bytes(content)


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Give write errors below one line; safetensors reports a full disk in its own class.

    Raises:
        StoreError: `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise _told(path, error) from None
    except Exception as error:
        if type(error).__name__ == "SafetensorError" and _FULL.search(str(error)):
            raise _told(path, error) from None
        raise


@contextmanager
def locked(target: Path) -> Generator[None]:
    """Let one process at a time make `target`; another waits until the block ends.

    Raises:
        StoreError: the folder it lies in cannot be written.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target.with_name(f".{target.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def alone(folder: Path) -> Generator[bool]:
    """Hold a folder for one process while the block lasts; give False where another holds it.

    Raises:
        StoreError: it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def file_hash(path: Path) -> str:
    """Give the SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Give the SHA-256 of every file in a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def seal(data: Mapping[str, Any]) -> dict[str, Any]:
    """Give plain data with the hash of all of it, by which a change is found."""
    own = {name: value for name, value in data.items() if name != SEAL}
    text = json.dumps(own, sort_keys=True, default=str)
    return {**own, SEAL: hashlib.sha256(text.encode()).hexdigest()}


def intact(data: Mapping[str, Any]) -> bool:
    """Say whether sealed data is as it was when it was sealed."""
    return seal(json.loads(json.dumps(dict(data))))[SEAL] == data.get(SEAL)


def sync(path: Path) -> None:
    """Have the disk hold a file, or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rename(source: Path, target: Path) -> None:
    """Give a whole folder or file its lasting name: the step that makes it exist."""
    source.replace(target)
    sync(target.parent)


def beside(target: Path) -> Path:
    """Give what is written before it becomes `target`, in the same folder."""
    return target.with_name(f".{target.name}.tmp-{os.getpid()}")


def _told(path: Path, error: BaseException) -> StoreError:
    """Turn a failed write into one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    free = "free some space and run the same command again"
    todo = free if full or _FULL.search(text) else "check the folder and its rights"
    return StoreError(str(path), f"cannot be written ({text[0].lower()}{text[1:]})", todo)
