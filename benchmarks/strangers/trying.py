"""One case of each part: made from a seed and a number, tried, and taken away again."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.strangers import ending, inputs
from benchmarks.strangers.ending import Ended, fault, ran
from benchmarks.strangers.small import Small

TELL = False
"""Whether to show what a command said."""


@contextmanager
def emptied() -> Iterator[Path]:
    """Give an empty folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="strangers-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tell(words: ending.Words, ended: Ended) -> None:
    """Show a command and what it said, where one case is looked at."""
    if TELL:
        print(f"$ holdfast {' '.join(words)!r}\n{ended.out}{ended.err}-> {ended}", file=sys.stderr)


def an_input(small: Small, seed: int, number: int) -> str | None:
    """Try one mutated input; the kinds take turns."""
    kind = list(inputs.KINDS)[number % len(inputs.KINDS)]
    with emptied() as folder:
        words = inputs.KINDS[kind](small, folder, random.Random(seed * 10**6 + number))
        ended = ran(words)
        tell(words, ended)
        wrong = fault(ended, folder)
    return f"{wrong} [{kind}]" if wrong else None


def a_corruption(small: Small, seed: int, number: int) -> str | None:
    return None


def a_kill(small: Small, seed: int, number: int) -> str | None:
    return None


def a_folder(small: Small, seed: int, number: int) -> str | None:
    return None
