"""The store: what exists in it is finished.

An artefact is written in a temporary folder inside the store, flushed to disk and renamed when
whole. One run at a time holds the store; what a dead run left half-written is swept by the next.
A manifest holds the hash of each file beside it and of itself. They are checked when an artefact is
first used; one made before manifests held hashes is used as it is. Its folders:

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
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.disk import SEAL, file_hash, hashes, intact, seal, whole_file, whole_folder
from holdfast.errors import StoreError

KINDS = ("defend", "generate", "judge", "measure", "analyse", "point", "audit")
MANIFEST = "manifest.json"
FILES = "files"
"""In a manifest: the SHA-256 of each other file of the artefact, by its path in the folder."""
REMEDY = "`holdfast verify STORE --drop` removes what is broken; then run again"
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
        self._checked: set[tuple[str, str]] = set()

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
        """Read an artefact's manifest, without the hashes it holds.

        Raises:
            StoreError: it cannot be read, or is not as it was written.
        """
        said = self._manifest(kind, key)
        return {name: value for name, value in said.items() if name not in (FILES, SEAL)}

    def _manifest(self, kind: str, key: str) -> dict[str, Any]:
        path = self.path(kind, key) / MANIFEST
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise _broken(path, f"cannot be read ({_why(error)})") from None
        if not isinstance(said, dict) or (said.get("kind"), said.get("key")) != (kind, key):
            raise _broken(path, "is the manifest of something else")
        if (SEAL in said or FILES in said) and not intact(said):
            raise _broken(path, "is not as it was written")
        return said

    def lines(self, kind: str, key: str, name: str) -> list[dict[str, Any]]:
        """Read an artefact's JSON lines.

        Raises:
            StoreError: they cannot be read, or are not as they were written.
        """
        path = self.path(kind, key) / name
        known = self._manifest(kind, key).get(FILES, {}).get(name)
        try:
            held = path.read_bytes()
            if known is not None and hashlib.sha256(held).hexdigest() != known:
                raise _broken(path, "is not as it was written")
            rows = [json.loads(line) for line in held.decode("utf-8").splitlines()]
        except (OSError, ValueError, RecursionError) as error:
            raise _broken(path, f"cannot be read ({_why(error)})") from None
        if not all(isinstance(row, dict) for row in rows):
            raise _broken(path, "holds a line that is no object")
        return rows

    def joined(self, kind: str, key: str, name: str, uids: Sequence[str]) -> list[dict[str, Any]]:
        """Read an artefact's JSON lines in the order of `uids`: each stands under its own prompt.

        Raises:
            StoreError: they are of other prompts than these; and as of `lines`.
        """
        rows = self.lines(kind, key, name)
        if [row.get("uid") for row in rows] == list(uids):
            return rows
        under: dict[object, list[dict[str, Any]]] = {}
        for row in rows:
            under.setdefault(row.get("uid"), []).append(row)
        if {uid: len(some) for uid, some in under.items()} != Counter(uids):
            raise _broken(self.path(kind, key) / name, "holds other prompts than its key says")
        return [under[uid].pop(0) for uid in uids]

    def checked(self, kind: str, key: str) -> Path:
        """Give where an artefact lies, once every file of it was found as it was written.

        Raises:
            StoreError: a file is missing or is not as it was written.
        """
        folder = self.path(kind, key)
        if (kind, key) not in self._checked:
            for name, known in self._manifest(kind, key).get(FILES, {}).items():
                try:
                    found = file_hash(folder / name)
                except OSError as error:
                    raise _broken(folder / name, f"cannot be read ({_why(error)})") from None
                if found != known:
                    raise _broken(folder / name, "is not as it was written")
            self._checked.add((kind, key))
        return folder

    def sealed(self, kind: str, key: str) -> bool:
        """Say whether an artefact's manifest holds hashes; those of older versions hold none."""
        return FILES in self._manifest(kind, key)

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
            said = seal({"kind": kind, "key": key, **manifest, FILES: hashes(folder)})
            write_json(folder / MANIFEST, said)
        return target

    def work(self, key: str) -> Path:
        """Give the folder in which an unfinished step keeps its checkpoints."""
        return self.folder / "work" / key

    def done(self, key: str) -> None:
        """Remove a finished step's checkpoints."""
        shutil.rmtree(self.work(key), ignore_errors=True)

    def chunk(self, key: str, name: str, make: Callable[[], list[dict[str, Any]]]) -> list[Any]:
        """Give a chunk of a step's rows, made once: read again after an interruption.

        A damaged one is made again. Its last line is the hash of those before.
        """
        path = self.work(key) / name
        if (kept := _kept(path)) is not None:
            return kept
        if path.is_dir():
            shutil.rmtree(path)
        rows = make()
        with whole_file(path, path.with_name(f"{_TEMPORARY}{os.getpid()}-{name}")) as part:
            write_lines(part, [*rows, {SEAL: _lines_hash(rows)}])
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


def _lines_hash(rows: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _kept(path: Path) -> list[Any] | None:
    """Give the rows of a chunk's file; None where it is missing or damaged."""
    try:
        *rows, last = read_lines(path)
        return rows if last == {SEAL: _lines_hash(rows)} else None
    except (OSError, ValueError, RecursionError):
        return None


def _broken(path: Path, what: str) -> StoreError:
    return StoreError(str(path), what, REMEDY)


def _why(error: Exception) -> str:
    """Say why something cannot be read, without a word of what it holds."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "broken text" if isinstance(error, UnicodeDecodeError) else "broken JSON"
