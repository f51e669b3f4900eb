"""How far a judge has come with the answers it was given, told to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Hears = Callable[[int], None]

_BY: ContextVar[Hears | None] = ContextVar("hears", default=None)


@contextmanager
def heard(by: Hears, given: int) -> Iterator[None]:
    """Have `by` told, in the body of a `with`, how many of `given` answers a judge has read."""
    read = 0

    def more(count: int) -> None:
        nonlocal read
        read = min(read + count, given)
        by(read)

    token = _BY.set(more)
    try:
        yield
    finally:
        _BY.reset(token)


def came(count: int = 1) -> None:
    """Tell that so many more answers have been read; a judge that takes long calls it."""
    by = _BY.get()
    if by is not None:
        by(count)
