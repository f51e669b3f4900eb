"""A step's error: as one line, as plain data for the parent, and its traceback in the store."""

from __future__ import annotations

import contextlib
import traceback
from typing import Any

from holdfast.engine.store import Store
from holdfast.errors import HoldfastError, raised, without_secrets

LAST_ERROR = "last-error.txt"
"""In the store: the traceback of the last error that nobody expected."""


def failed(label: str, error: BaseException) -> HoldfastError:
    """Give any error of a step as one line; a known one keeps its own words.

    Of another the words may quote a row: they are in `LAST_ERROR` alone.
    """
    if isinstance(error, HoldfastError):
        return type(error)(f"{label}: {error.where}", error.what, error.todo)
    todo = "see last-error.txt in the store (it may quote your rows); report it"
    return HoldfastError(label, raised(error), todo)


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
    """Keep the traceback of an error nobody expected, as private as the answers beside it."""
    if not isinstance(error, HoldfastError):
        with contextlib.suppress(OSError):
            (store.folder / LAST_ERROR).write_text(
                without_secrets("".join(traceback.format_exception(error))), encoding="utf-8"
            )
