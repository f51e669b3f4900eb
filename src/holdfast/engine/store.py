"""The store: what exists in it is finished.

An artefact is written in a temporary folder inside the store, flushed to disk and renamed when
whole. One run at a time holds the store; what a dead run left half-written is swept by the next.
Its folders:

    defend/KEY/    a hardened checkpoint, its log and diagnostics
    generate/KEY/  answers of one model at one budget to one set of prompts
    judge/KEY/     one judge's verdicts on them
    analyse/KEY/   states of one model at one budget, where the study has an analysis
    measure/KEY/   a defence's own diagnostic on the model of plain refusal fine-tuning
    point/KEY/     attacked weights, only where they are kept on purpose
    audit/KEY/     what the sides share, where finding it took long
    work/KEY/      checkpoints of a step that is not finished
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.disk import whole_file, whole_folder
from holdfast.errors import StoreError

KINDS = ("defend", "generate", "judge", "measure", "analyse", "point", "audit")
MANIFEST = "manifest.json"
_TEMPORARY = "tmp-"


def write_json(path: Path, data: object) -> None:
    """Write plain data as readable JSON."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    text = "".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Store:
    """A folder of finished artefacts, found by kind and key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: int | None = None

    def path(self, kind: str, key: str) -> Path:
        """Give where an artefact lies, or would."""
        return self.folder / kind / key

    def has(self, kind: str, key: str) -> bool:
        """Say whether an artefact is finished."""
        return (self.path(kind, key) / MANIFEST).is_file()

    def keys(self, kind: str) -> set[str]:
        """Give the keys of all finished artefacts of a kind."""
        try:
            return {entry.name for entry in os.scandir(self.folder / kind)}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise StoreError(
                str(self.folder), f"cannot be read ({error.strerror})", "name another store"
            ) from None

    def manifest(self, kind: str, key: str) -> dict[str, Any]:
        """Read an artefact's manifest."""
        path = self.path(kind, key) / MANIFEST
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(
                str(path), f"cannot be read ({error})", "delete that folder and run again"
            ) from None

    def lines(self, kind: str, key: str, name: str) -> list[dict[str, Any]]:
        """Read an artefact's JSON lines."""
        path = self.path(kind, key) / name
        try:
            return read_lines(path)
        except (OSError, ValueError) as error:
            raise StoreError(
                str(path), f"cannot be read ({error})", "delete that folder and run again"
            ) from None

    def publish(
        self, kind: str, key: str, manifest: Mapping[str, Any], fill: Callable[[Path], None]
    ) -> Path:
        """Make an artefact: `fill` writes into a temporary folder, which is renamed when whole.

        Raises:
            StoreError: it cannot be written; nothing is left of it.
        """
        target = self.path(kind, key)
        if self.has(kind, key):
            return target
        temporary = self.folder / f"{_TEMPORARY}{os.getpid()}-{key[:16]}"
        with whole_folder(target, temporary) as folder:
            fill(folder)
            write_json(folder / MANIFEST, {"kind": kind, "key": key, **manifest})
        return target

    def work(self, key: str) -> Path:
        """Give the folder in which an unfinished step keeps its checkpoints."""
        return self.folder / "work" / key

    def done(self, key: str) -> None:
        """Remove a finished step's checkpoints."""
        shutil.rmtree(self.work(key), ignore_errors=True)

    def chunk(self, key: str, name: str, make: Callable[[], list[dict[str, Any]]]) -> list[Any]:
        """Give a chunk of a step's rows, made once: read again after an interruption."""
        path = self.work(key) / name
        if path.is_file():
            return read_lines(path)
        rows = make()
        with whole_file(path, path.with_name(f"{_TEMPORARY}{os.getpid()}-{name}")) as part:
            write_lines(part, rows)
        return rows

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the store for one run and sweep what dead runs left half-written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                str(self.folder),
                f"cannot be written ({(error.strerror or str(error)).lower()})",
                "name a folder you may write to with --store",
            ) from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                other = os.read(handle, 64).decode(errors="replace").strip() or "unknown"
                raise StoreError(
                    str(self.folder),
                    f"in use by another run (process {other})",
                    "wait for it to end, or name another --store",
                ) from None
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
            self.sweep()
            yield
        finally:
            os.close(handle)

    def sweep(self) -> None:
        """Remove temporary folders; only whoever holds the store may call this."""
        for path in [
            *self.folder.glob(f"{_TEMPORARY}*"),
            *self.folder.glob(f"work/*/{_TEMPORARY}*"),
            *self.folder.glob(f"work/*/*/{_TEMPORARY}*"),
        ]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def tidy(self, finished: set[str]) -> None:
        """Remove the work folders of finished steps, and the work folder itself when empty."""
        work = self.folder / "work"
        if not work.is_dir():
            return
        for path in work.iterdir():
            if path.name in finished:
                shutil.rmtree(path, ignore_errors=True)
        if not any(work.iterdir()):
            work.rmdir()

    def unneeded(self, needed: Mapping[str, set[str]]) -> list[Path]:
        """Give every artefact and work folder that no key in `needed` names."""
        found = []
        for kind in (*KINDS, "work"):
            folder = self.folder / kind
            if folder.is_dir():
                keep = needed.get(kind, set())
                found += [path for path in sorted(folder.iterdir()) if path.name not in keep]
        return found
