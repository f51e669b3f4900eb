"""The rows that a method draws from a pool: planning asks for them several times."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from holdfast.api import Attack, Trainable
from holdfast.data.example import Example
from holdfast.data.pool import Pool

_DRAWN: WeakKeyDictionary[Pool, dict[tuple[str, str, int], dict[Any, list[Example]]]] = (
    WeakKeyDictionary()
)


def drawn(method: Attack | Trainable, pool: Pool, seed: int) -> dict[Any, list[Example]]:
    """Give the rows of each role that a method draws from what it sees of a pool.

    They are drawn once for a pool, a method with its fields and a seed; the lists are the
    caller's own.

    Raises:
        DataError: there are too few, or none.
    """
    known = _DRAWN.setdefault(pool, {})
    same = (method.name(), method.model_dump_json(), seed)
    if same not in known:
        known[same] = dict(method.rows(method.sees(pool), seed))
    return {role: list(rows) for role, rows in known[same].items()}
