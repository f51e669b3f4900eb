"""A report's files as they were written: `study.json` beside them holds the hash of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.disk import file_hash
from holdfast.errors import DataError

STATE = "study.json"
"""In the report's folder: which plan the report there was made from, and its files' hashes."""


def state_of(path: Path) -> dict[str, Any]:
    """Give what a run said of its report at a path; nothing where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def as_written(out: Path, found: Mapping[str, Any]) -> bool:
    """Say whether every file of a report is there, as it was written."""
    files = found.get("files")
    try:
        return isinstance(files, dict) and all(
            file_hash(out / name) == known for name, known in files.items()
        )
    except OSError:
        return False


def check(path: Path) -> None:
    """Refuse a file that is not as the run wrote it; one that no `study.json` names is taken.

    Raises:
        DataError: it was changed since, or is of another run than the `study.json` beside it.
    """
    files = state_of(path.parent / STATE).get("files")
    known = files.get(path.name) if isinstance(files, dict) else None
    try:
        if known is None or file_hash(path) == known:
            return
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error})", "check the file") from None
    raise DataError(
        str(path),
        f"was changed after the run wrote it (its hash is in {STATE})",
        f"run the study again, which writes it anew, or delete {STATE} if the change is yours",
    )
