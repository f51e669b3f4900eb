"""What each column of a published data set must hold, whatever kind of file it comes in.

CSV knows only text: numbers, truth values and labels are read from it as from JSON and Parquet.
What does not fit is told by file, row and column, never by the words of a row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from holdfast.data.records import named, shown
from holdfast.errors import DataError

LONGEST_WORD = 60
"""Characters of a label: a longer one is a prompt in the wrong column."""


class UnfitError(Exception):
    """A value that its column cannot hold; says how, without showing the value."""


class Kind(Protocol):
    """What a column holds."""

    def read(self, value: object) -> object:
        """Give the value as Python has it.

        Raises:
            UnfitError: the column cannot hold it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Any text; a missing one is empty."""

    def read(self, value: object) -> str:
        """Give the text."""
        if value is None:
            return ""
        if not isinstance(value, str):
            raise UnfitError("is no text")
        return value


@dataclass(frozen=True, slots=True)
class Word:
    """A short text that sorts rows; a missing one is empty."""

    def read(self, value: object) -> str:
        """Give the text."""
        text = Text().read(value).strip()
        if len(text) > LONGEST_WORD or "\n" in text:
            raise UnfitError("is no short word")
        return text


class Label:
    """One of some words; a missing one is None."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def read(self, value: object) -> str | None:
        """Give the word, or None where none was given."""
        if value is None or (isinstance(value, str) and value.strip() in ("", "None")):
            return None
        if value not in self.words:
            raise UnfitError(f"is none of {', '.join(self.words)}")
        return str(value)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def read(self, value: object) -> bool:
        """Give it as a truth value."""
        said = value.strip().lower() if isinstance(value, str) else value
        if said is True or said == "true":
            return True
        if said is False or said == "false":
            return False
        raise UnfitError("is neither true nor false")


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number in a range, both ends included."""

    low: int
    high: int

    def read(self, value: object) -> int:
        """Give the number."""
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,9}\s*", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise UnfitError("is no whole number")
        if not self.low <= value <= self.high:
            raise UnfitError(f"is no whole number from {self.low} to {self.high}")
        return value


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts, none of them empty. CSV holds none."""

    def read(self, value: object) -> tuple[str, ...]:
        """Give the texts."""
        if not isinstance(value, list | tuple):
            raise UnfitError("is no list of texts (CSV cannot hold one: use JSON or Parquet)")
        found = tuple(one for one in value if isinstance(one, str) and one.strip())
        if not found or len(found) != len(value):
            raise UnfitError("is a list with something else than texts in it")
        return found


@dataclass(frozen=True, slots=True)
class Group:
    """Named values, each of its kind: exactly these."""

    kinds: Mapping[str, Kind]

    def read(self, value: object) -> Mapping[str, object]:
        """Give the values by name."""
        if not isinstance(value, Mapping):
            raise UnfitError("holds no named values (CSV cannot: use JSON or Parquet)")
        if set(value) != set(self.kinds):
            raise UnfitError(f"has other names in it than {', '.join(self.kinds)}")
        return {name: kind.read(value[name]) for name, kind in self.kinds.items()}


@dataclass(frozen=True, slots=True)
class Record:
    """A row that fits its columns, and where it stands."""

    where: str
    values: Mapping[str, object]

    def text(self, name: str) -> str:
        """Give a `Text` or `Word`, without white space around it."""
        value = self.values[name]
        assert isinstance(value, str), name
        return value.strip()

    def label(self, name: str) -> str | None:
        """Give a `Label`."""
        value = self.values[name]
        assert value is None or isinstance(value, str), name
        return value

    def flag(self, name: str) -> bool:
        """Give a `Flag`."""
        value = self.values[name]
        assert isinstance(value, bool), name
        return value

    def number(self, name: str) -> int:
        """Give a `Whole`."""
        value = self.values[name]
        assert isinstance(value, int), name
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """Give `Texts`."""
        value = self.values[name]
        assert isinstance(value, tuple), name
        return value

    def group(self, name: str) -> Record:
        """Give a `Group`."""
        value = self.values[name]
        assert isinstance(value, Mapping), name
        return Record(self.where, {str(key): inner for key, inner in value.items()})


def fit(row: Mapping[str, object], columns: Mapping[str, Kind], where: str, todo: str) -> Record:
    """Give a row's named columns; others are nobody's business.

    Raises:
        DataError: one that is missing, or a value that it cannot hold.
    """
    values = {}
    for name, kind in columns.items():
        if name not in row:
            there = f"there are: {shown(row)}" if named(row) else "none of a known name"
            raise DataError(where, f"no column '{name}' ({there})", todo)
        try:
            values[name] = kind.read(row[name])
        except UnfitError as error:
            raise DataError(where, f"column '{name}' {error}", todo) from None
    return Record(where, values)


def word(text: str) -> str:
    """Give a published label as a word of a study file: small letters, digits and `_`."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
