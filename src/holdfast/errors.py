"""Every error a user may meet: one clear line, `where: what is wrong; what to do`."""

from __future__ import annotations

import difflib
import os
import re
import traceback
import unicodedata
from collections.abc import Iterable
from pathlib import Path

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of what cannot be seen: control, format, private, unassigned, halves."""


def harmless(text: str) -> str:
    """Give text that a terminal or a page can show: what cannot be seen is spelt `[U+202E]`.

    Those are control, format (bidirectional marks, zero widths, tags), private, unassigned and
    surrogate characters. Line feeds and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _HIDDEN:
        return character
    return f"[U+{ord(character):04X}]"


class HoldfastError(Exception):
    """An error with its place, its cause and its remedy, and the exit code the command ends with.

    Exit codes: 1 a step failed, 2 the input is wrong, 3 results are invalid.
    """

    exit_code = 1

    def __init__(self, where: str, what: str, todo: str) -> None:
        self.where, self.what, self.todo = where, what, todo
        line = f"{where}: {what}; {todo}"
        super().__init__(" ".join(harmless(line).split()))

    def __reduce__(self) -> tuple[type[HoldfastError], tuple[str, str, str]]:
        """Let the error travel from a worker process to its parent unchanged."""
        return (type(self), (self.where, self.what, self.todo))


class ConfigError(HoldfastError):
    """A study file, an option or a method's fields are wrong."""

    exit_code = 2


class DataError(HoldfastError):
    """Rows are missing, malformed or too few."""

    exit_code = 2


class JobRefusedError(DataError):
    """A host's defence admits none of a customer's rows: nothing is trained."""


class ModelError(HoldfastError):
    """A model, tokenizer or format cannot be used as asked."""

    exit_code = 2


class JudgeError(HoldfastError):
    """A judge cannot be reached or answers nothing usable."""


class EndpointError(HoldfastError):
    """An endpoint cannot go on: it answers no more, asks to wait too long, its budget is spent.

    What it has answered is kept, and the same command goes on from there.
    """


class StoreError(HoldfastError):
    """The store cannot be read or written."""


class TrainingError(HoldfastError):
    """Training stopped: a loss that is not finite, a perturbation lost to rounding."""


class InvalidResultsError(HoldfastError):
    """Results exist but may not be used (too many unscored answers)."""

    exit_code = 3


def install(extra: str) -> str:
    """Give the command that installs an extra: from the clone, for no index has this package."""
    return f"pip install '.[{extra}]' in the clone of holdfast"


LONGEST = 300
"""Characters kept of what an exception says."""


SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)S?$")
"""How the name of an environment variable ends whose value is shown to nobody."""
SHORTEST = 8
"""Characters of such a value from which on it is looked for: a shorter one is also a word."""


def without_secrets(text: str) -> str:
    """Give text in which the value of a secret environment variable is `[secret]`."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and SECRET.search(name.upper()):
            text = text.replace(value, "[secret]")
    return text


def one_line(error: BaseException) -> str:
    """Give an exception's type and the first line of what it says, without secrets.

    It may quote a row: show it only where none was at hand; else see `raised`.
    """
    said = without_secrets((str(error).strip().splitlines() or [""])[0])
    return (f"{type(error).__name__}: {said}" if said else type(error).__name__)[:LONGEST]


def raised(error: BaseException) -> str:
    """Give an exception's type and where it was raised: `ValueError in my_judge.py, line 31`.

    Its own words may quote a prompt or an answer, so they are left out. What the machine says of a
    file or a connection (`OSError` with a number) is told.
    """
    kind = type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        kind = f"{kind}: {os.strerror(error.errno)}"
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return kind
    return f"{kind} in {Path(frames[-1].filename).name}, line {frames[-1].lineno}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give ``"did you mean 'x'?"`` for the nearest known word, else the list of known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return "known: " + (", ".join(known) if known else "none")
