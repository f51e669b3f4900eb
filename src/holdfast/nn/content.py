"""The bytes of a checkpoint's weights: hashed when they are first loaded, and remembered.

Hashing what fills a disk takes minutes, so the hash of a large file is kept in the user's cache
folder with the file's size and time. Without torch.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.disk import cache_folder, whole_file
from holdfast.errors import ModelError, StoreError
from holdfast.nn.files import SMALL, ModelFiles, Stamp, weights_in

RECORD = "content.json"
"""In the cache folder: path -> size, time, file and SHA-256 of each large weights file."""


def content(files: ModelFiles) -> dict[str, str]:
    """Give the SHA-256 of each weights file that is loaded, by name.

    Raises:
        ModelError: a file changed since it was found, or holds other bytes than were recorded
            while its size and time are the same.
    """
    unchanged(files)
    return hashes(files.folder)


def hashes(folder: Path) -> dict[str, str]:
    """Give the SHA-256 of each weights file that is loaded from a folder, by name.

    Raises:
        ModelError: as of `content`.
    """
    return {path.name: _hash(path.resolve()) for path in weights_in(folder)}


def unchanged(files: ModelFiles) -> None:
    """Refuse weights files that are not as they were when they were found.

    Raises:
        ModelError: one has another size, time or place on the disk.
    """
    for path in files.shards() if files.stamps else ():
        if files.stamps.get(path.name) != Stamp.of(path):
            raise ModelError(str(path), "changed since it was checked", "run again")


def _hash(path: Path) -> str:
    """Hash a file; a large one that is as it was recorded is not read."""
    before = path.stat()
    now = Stamp.of(path)
    about = {"size": now.size, "mtime_ns": now.mtime_ns, "inode": now.inode}
    known = _record().get(str(path), {}) if now.size > SMALL else {}
    alike = {name: known.get(name) for name in about} == about
    if alike and known.get("ctime_ns") == before.st_ctime_ns:
        return str(known.get("sha256"))
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if Stamp.of(path) != now:
        raise ModelError(str(path), "changed while it was read", "run again")
    if alike and known.get("sha256") != found:
        raise ModelError(
            str(path),
            "holds other bytes than before under the same size and time",
            "copy it again; if the change was meant, touch it",
        )
    if now.size > SMALL:
        _keep(str(path), about | {"ctime_ns": before.st_ctime_ns, "sha256": found})
    return found


def _record() -> dict[str, dict[str, Any]]:
    """Read what is recorded; a record that cannot be read is as good as none."""
    try:
        said = json.loads((cache_folder() / RECORD).read_text(encoding="utf-8"))
        return {path: dict(entry) for path, entry in said.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _keep(path: str, entry: dict[str, Any]) -> None:
    """Record a file, and forget those that are gone; a cache that cannot be written is none."""
    others = {name: one for name, one in _record().items() if Path(name).exists()}
    with suppress(StoreError), whole_file(cache_folder() / RECORD) as part:
        part.write_text(json.dumps(others | {path: entry}, indent=1), encoding="utf-8")
