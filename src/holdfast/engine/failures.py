"""A step's error: as one line, as plain data for the parent, and its traceback in the store."""

from __future__ import annotations

import contextlib
import traceback
from typing import Any

from holdfast.engine.store import Store
from holdfast.errors import HoldfastError

LAST_ERROR = "last-error.txt"
"""In the store: the traceback of the last error that nobody expected."""


def failed(label: str, error: BaseException) -> HoldfastError:
    """Give any error of a step as one line; a known one keeps its own words."""
    if isinstance(error, HoldfastError):
        return type(error)(f"{label}: {error.where}", error.what, error.todo)
    what = f"{type(error).__name__}: {error}".split("\n")[0]
    return HoldfastError(label, what[:300], "see last-error.txt in the store; report it")


def described(error: Exception) -> dict[str, Any]:
    """Give an error as plain data."""
    known = isinstance(error, HoldfastError)
    told = error if isinstance(error, HoldfastError) else failed("worker", error)
    return {
        "type": type(told).__name__,
        "where": told.where,
        "what": told.what,
        "todo": told.todo,
        "known": known,
    }


def note(store: Store, error: Exception) -> None:
    """Keep the traceback of an error nobody expected."""
    if not isinstance(error, HoldfastError):
        with contextlib.suppress(OSError):
            (store.folder / LAST_ERROR).write_text(
                "".join(traceback.format_exception(error)), encoding="utf-8"
            )
