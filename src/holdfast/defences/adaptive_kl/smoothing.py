"""Risk smoothed over steps, so that an interrupted run continues with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast import nn
from holdfast.disk import intact, seal
from holdfast.errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor

Line = tuple[int, float, int]
"""Step, sum of the smoothed risks of some of its rows, how many rows."""


@dataclass
class Smoother:
    """Holds the mean smoothed risk of the last step, in a file too where there is a folder."""

    keep: float
    path: Path | None = None
    step: int = -1
    level: float = 0.0
    total: float = 0.0
    rows: int = 0

    def begin(self, step: int) -> None:
        """Turn to a step: the level is the mean of the step before."""
        if step == self.step + 1 and step:
            self.level = self.total / self.rows if self.rows else self.level
        else:
            self.level = self._found(step)
        self.step, self.total, self.rows = step, 0.0, 0

    def smooth(self, risk: Tensor) -> Tensor:
        """Give the smoothed risk [R] of rows of this step, and remember it."""
        found = nn.smoothed(risk, self.level, self.keep)
        if self.keep:
            self.total += float(found.sum())
            self.rows += len(found)
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(_line(self.step, float(found.sum()), len(found)))
        return found

    def _found(self, step: int) -> float:
        """Give the level before a step that the run continues from; forget what came behind."""
        if self.path is None or not self.path.is_file():
            return 0.0
        kept = [line for line in self._lines() if line[0] < step]
        self.path.write_text("".join(_line(*line) for line in kept), encoding="utf-8")
        last = [line for line in kept if line[0] == step - 1]
        rows = sum(line[2] for line in last)
        return sum(line[1] for line in last) / rows if rows else 0.0

    def _lines(self) -> Iterable[Line]:
        """Give what earlier steps wrote; a last line that was cut in the middle is left out.

        Raises:
            StoreError: another line is not as it was written, so the level is not known.
        """
        assert self.path is not None  # `_found` sees to it
        *whole, _cut = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(whole, 1):
            try:
                said = json.loads(line)
                if not intact(said):
                    raise ValueError
                yield int(said["step"]), float(said["sum"]), int(said["rows"])
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                raise StoreError(
                    f"{self.path}:{number}",
                    "is not as it was written",
                    f"remove {self.path.parent}: that training begins again",
                ) from None


def _line(step: int, total: float, rows: int) -> str:
    return json.dumps(seal({"step": step, "sum": total, "rows": rows})) + "\n"
