"""What a run tells while it goes on, and what it has done in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from holdfast.errors import HoldfastError

Sizes = Mapping[str, float]
"""How much work a step is, by its label, beside others of the run."""


class Show(Protocol):
    """What a run tells while it goes on."""

    def start(self, total: int, sizes: Sizes | None = None) -> None:
        """Say how many steps there are to do, and how large those are that take time."""

    def step(self, worker: int, label: str, part: str, done: int, total: int) -> None:
        """Say how far a step has come."""

    def finish(self, worker: int, label: str, seconds: float, ok: bool) -> None:
        """Say that a step has ended."""


class Silent:
    """Tells nothing."""

    def start(self, total: int, sizes: Sizes | None = None) -> None:
        """Do nothing."""

    def step(self, worker: int, label: str, part: str, done: int, total: int) -> None:
        """Do nothing."""

    def finish(self, worker: int, label: str, seconds: float, ok: bool) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Done:
    """What a run did."""

    finished: int = 0
    failures: list[HoldfastError] = field(default_factory=list)
    held_up: int = 0
    """Steps that could not start because what they stand on failed."""
    seconds: float = 0.0
