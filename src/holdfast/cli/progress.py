"""How a run shows itself: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from holdfast.cli.saying import say
from holdfast.errors import harmless

if TYPE_CHECKING:
    from holdfast.engine.show import Sizes

ENOUGH = 0.1
"""Share of the work from which on the time that is left is told; ours."""


def display() -> Bars | Lines:
    """Give what suits where the output goes."""
    return Bars() if sys.stderr.isatty() else Lines()


class Lines:
    """One line for each step that ends, and one a minute for a long one.

    What is left is reckoned from the steps so far and how large the others are.
    """

    def __init__(self) -> None:
        self._done = self._total = 0
        self._sizes: dict[str, float] = {}
        self._size = 0.0
        self._began = self._last = time.monotonic()

    def start(self, total: int, sizes: Sizes | None = None) -> None:
        """Say how many steps there are to do, and how large those are that take time."""
        self._total, self._sizes, self._began = total, dict(sizes or {}), time.monotonic()
        self._size = sum(self._sizes.values())

    def step(self, worker: int, label: str, part: str, done: int, total: int) -> None:
        """Say, once a minute, how far a step has come."""
        if time.monotonic() - self._last > 60:
            self._line(f"... {label}: {part}{f' {done}/{total}' if total else ''}")

    def finish(self, worker: int, label: str, seconds: float, ok: bool) -> None:
        """Say that a step has ended."""
        self._done += 1
        how = f"{seconds:.1f} s" if ok else "FAILED"
        self._sizes.pop(label, None)
        self._line(f"[{self._done}/{self._total}] {label}: {how}{self._left()}")

    def _left(self) -> str:
        """Say what time is left, once some work tells; nothing where it is under a minute."""
        todo = sum(self._sizes.values())
        if self._size - todo < ENOUGH * self._size or not todo:
            return ""
        left = (time.monotonic() - self._began) * todo / (self._size - todo)
        return f", about {spoken(left)} left" if left > 60 else ""

    def say(self, text: str) -> None:
        """Write a line of its own."""
        self._line(text)

    def close(self) -> None:
        """End the display."""

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        say(text, err=True)


class Bars:
    """A bar for the whole run and one for each worker."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed
        from rich.progress import TimeRemainingColumn as Remaining
        from rich.table import Column

        self._bars = Progress(
            TextColumn(
                "{task.description}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Elapsed(),
            Remaining(),
            expand=True,
            console=Console(stderr=True),
        )
        self._whole: Any = None
        self._workers: dict[int, Any] = {}

    def start(self, total: int, sizes: Sizes | None = None) -> None:
        """Show the bar of the whole run."""
        self._bars.start()
        self._whole = self._bars.add_task("all steps", total=total)

    def step(self, worker: int, label: str, part: str, done: int, total: int) -> None:
        """Move a worker's bar."""
        if worker not in self._workers:
            self._workers[worker] = self._bars.add_task("", total=total)
        self._bars.update(
            self._workers[worker], description=f"{label}: {part}", completed=done, total=total
        )

    def finish(self, worker: int, label: str, seconds: float, ok: bool) -> None:
        """Move the bar of the whole run; a failed step is named."""
        self._bars.advance(self._whole)
        if not ok:
            self._bars.console.print(f"FAILED {label}", markup=False)

    def say(self, text: str) -> None:
        """Write a line above the bars."""
        self._bars.console.print(harmless(text), markup=False, highlight=False)

    def close(self) -> None:
        """End the display."""
        if self._whole is not None:
            self._bars.stop()


class Training:
    """Shows training: a moving line on a terminal; elsewhere every tenth step and one a minute.

    What is long is told early, so that nobody waits for what would take days.
    """

    def __init__(self) -> None:
        self._part = ""
        self._first = self._began = self._last = 0.0

    def __call__(self, part: str, done: int, total: int) -> None:
        """Show that `done` of the steps of a part are taken; a part of no steps has begun."""
        now = time.monotonic()
        if not total:
            say(f"{part} ...", err=True)
            return
        if part != self._part:  # a part may go on where it was interrupted
            self._part, self._first, self._began, self._last = part, done, now, now
        taken = done - self._first
        left = (now - self._began) / taken * (total - done) if taken else 0.0
        line = f"{part} {done}/{total}" + (f", about {spoken(left)} left" if left > 60 else "")
        if sys.stderr.isatty():
            typer.echo(f"\r{harmless(line)}\x1b[K", err=True, nl=done == total)
        elif done % max(1, total // 10) == 0 or (taken == 2 and left > 60) or now - self._last > 60:
            self._last = now
            say(line, err=True)


def spoken(seconds: float) -> str:
    """Give a time as people say it."""
    for unit, size in (("days", 86400), ("hours", 3600)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds / 60, 1):.0f} min"
