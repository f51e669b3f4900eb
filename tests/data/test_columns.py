"""Columns of published data sets: the same value out of CSV, JSON and Parquet, or one line."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.data.columns import Flag, Group, Kind, Label, Text, Texts, Whole, Word, fit, word
from holdfast.errors import DataError

COLOURS = Label("red", "blue")


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (Text(), "words", "words"),
        (Text(), None, ""),
        (Word(), " self-harm ", "self-harm"),
        (COLOURS, "red", "red"),
        (COLOURS, None, None),
        (COLOURS, "", None),
        (COLOURS, "None", None),
        (Flag(), True, True),
        (Flag(), "False", False),
        (Whole(-1, 1), -1, -1),
        (Whole(0, 3), "3", 3),
        (Texts(), ["a", "b"], ("a", "b")),
        (Group({"a,b": Flag()}), {"a,b": True}, {"a,b": True}),
    ],
)
def test_a_value_is_read(kind: Kind, given: object, value: object) -> None:
    assert kind.read(given) == value


@pytest.mark.parametrize(
    ("kind", "given", "what"),
    [
        (Text(), 7, "is no text"),
        (Word(), "placeholder words " * 9, "is no short word"),
        (Word(), "two\nlines", "is no short word"),
        (COLOURS, "green", "is none of red, blue"),
        (COLOURS, 1, "is none of red, blue"),
        (Flag(), None, "is neither true nor false"),
        (Flag(), 1.5, "is neither true nor false"),
        (Whole(0, 3), "4", "is no whole number from 0 to 3"),
        (Whole(0, 3), True, "is no whole number"),
        (Whole(0, 3), "²", "is no whole number"),
        (Texts(), "['a']", "is no list of texts (CSV cannot hold one: use JSON or Parquet)"),
        (Texts(), ["a", ""], "is a list with something else than texts in it"),
        (Texts(), [], "is a list with something else than texts in it"),
        (Group({"a": Flag()}), "x", "holds no named values (CSV cannot: use JSON or Parquet)"),
        (Group({"a": Flag()}), {"b": True}, "has other names in it than a"),
        (Group({"a": Flag()}), {"a": "x"}, "is neither true nor false"),
    ],
)
def test_what_does_not_fit_is_told_by_place_and_never_shown(
    kind: Kind, given: object, what: str
) -> None:
    row: dict[str, Any] = {"column": given}
    with pytest.raises(DataError) as error:
        fit(row, {"column": kind}, "file.csv:3", "look at it")
    assert str(error.value) == f"file.csv:3: column 'column' {what}; look at it"


def test_a_missing_column_is_named_beside_those_there_are() -> None:
    row: dict[str, object] = {"Prompt": "x", "how do you name a file without a header": "y"}
    with pytest.raises(DataError) as error:
        fit(row, {"prompt": Text()}, "file.csv:2", "look at it")
    said = "file.csv:2: no column 'prompt' (there are: Prompt, (column 2)); look at it"
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("published", "said"),
    [("Sexual (minor)", "sexual_minor"), ("PII/Privacy", "pii_privacy"), ("Other", "other")],
)
def test_a_label_becomes_a_word_of_a_study_file(published: str, said: str) -> None:
    assert word(published) == said
