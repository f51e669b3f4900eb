"""One case of each part: made from a seed and a number, tried, and taken away again."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.strangers import corruptions, ending, folders, inputs, kills
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
    """Try one corrupted file of a store."""
    with emptied() as folder:
        return corruptions.tried(small, folder, random.Random(seed * 10**6 + number), tell)


def a_kill(small: Small, seed: int, number: int) -> str | None:
    """Try one command that is killed or stopped; the commands take turns."""
    with emptied() as folder:
        return kills.tried(small, folder, number, random.Random(seed * 10**6 + number), tell)


def a_folder(small: Small, seed: int, number: int) -> str | None:
    """Try one hostile model or template; `seed` changes nothing here."""
    name = list(folders.CASES)[number % len(folders.CASES)]
    with emptied() as folder:
        wrong = folders.tried(small, folder, folders.CASES[name], tell)
    return f"{wrong} [{name}]" if wrong else None
