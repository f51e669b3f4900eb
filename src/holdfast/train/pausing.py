"""When an unfinished run writes a checkpoint: every so many steps, by minutes, and when stopped."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

MINUTES = 10.0
"""Minutes after which a checkpoint is written whatever the steps since; ours: no more is lost."""


class Pauses:
    """Says after which steps to write a checkpoint, and lets a step end before a signal stops it.

    Args:
        every: steps between two checkpoints.
    """

    def __init__(self, every: int) -> None:
        self._every, self._last = every, time.monotonic()
        self._asked: int | None = None

    def due(self, done: int, ends: bool) -> bool:
        """Say whether to write a checkpoint after `done` steps; where training ends, always."""
        late = time.monotonic() - self._last >= 60 * MINUTES
        found = self._asked is not None or late or done % self._every == 0 or ends
        if found:
            self._last = time.monotonic()
        return found

    def stop(self) -> None:
        """Do what a signal that came during the step asks for: it ends the run."""
        if self._asked is not None:
            signal.raise_signal(self._asked)

    @contextmanager
    def held(self) -> Generator[None]:
        """Let Ctrl-C, and SIGTERM where something answers it, wait for the step's end.

        The second one does not wait. Only the main thread can do this; elsewhere nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}

        def restore() -> None:
            for one, handler in before.items():
                signal.signal(one, handler)

        def ask(number: int, _frame: FrameType | None) -> None:
            restore()
            self._asked = number

        for one, handler in before.items():
            if callable(handler):
                signal.signal(one, ask)
        try:
            yield
        finally:
            restore()
