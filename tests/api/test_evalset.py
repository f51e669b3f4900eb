"""What a set of prompts is for, who scores it, and what its rows must hold."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.api import EvalPurpose, EvalSet, Known, Scorer
from holdfast.api.evalset import SCORERS
from holdfast.errors import ConfigError, DataError


def test_every_purpose_has_a_scorer() -> None:
    assert set(SCORERS) == set(EvalPurpose)
    for purpose, scorers in SCORERS.items():
        for scorer in scorers:
            assert EvalSet("x", purpose, scorer, "X").purpose is purpose


def test_words_from_a_plug_in_count_as_purpose_and_scorer() -> None:
    words: tuple[Any, Any] = ("harm", "judges")
    made = EvalSet("x", *words, "X")
    assert (made.purpose, made.scorer) == (EvalPurpose.HARM, Scorer.JUDGES)
    assert made.purpose is EvalPurpose.HARM


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (("", "harm", "judges", ""), "evaluation set: has no name; give it one"),
        (
            ("x", "hram", "judges", ""),
            "evaluation set 'x': no purpose 'hram'; did you mean 'harm'?",
        ),
        (
            ("x", "exact", "extact", ""),
            "evaluation set 'x': no scorer 'extact'; did you mean 'exact'?",
        ),
        (
            ("x", "harm", "exact", ""),
            "evaluation set 'x': purpose 'harm' cannot be scored by 'exact'; write judges",
        ),
        (
            ("x", "task", "judge", ""),
            "evaluation set 'x': purpose 'task' cannot be scored by 'judge'; write exact or "
            "options",
        ),
    ],
)
def test_a_set_that_makes_no_sense_is_one_line(fields: tuple[Any, ...], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EvalSet(*fields)
    assert str(caught.value) == line


EXACT = EvalSet("e", EvalPurpose.EXACT, Scorer.EXACT, "E")
OPTIONS = EvalSet("o", EvalPurpose.OPTIONS, Scorer.OPTIONS, "O")
HARM = EvalSet("h", EvalPurpose.HARM, Scorer.JUDGES, "H")
REFUSED = EvalSet("r", EvalPurpose.REFUSED, Scorer.JUDGE, "R")


@pytest.mark.parametrize(
    ("asked", "meta", "line"),
    [
        (EXACT, {}, "row: has no 'answer' to compare with; put it in the row's meta"),
        (OPTIONS, {}, "row: has 0 'options'; put two or more in its meta"),
        (OPTIONS, {"options": ["a"]}, "row: has 1 'options'; put two or more in its meta"),
        (
            OPTIONS,
            {"options": ["a", "b"]},
            "row: its 'answer_index' is None, no place among 2 options; put the right option's "
            "place, from 0, in its meta",
        ),
        (
            OPTIONS,
            {"options": ["a", "b"], "answer_index": 2},
            "row: its 'answer_index' is 2, no place among 2 options; put the right option's "
            "place, from 0, in its meta",
        ),
    ],
)
def test_a_row_that_cannot_be_scored_is_one_line(
    asked: EvalSet, meta: dict[str, Any], line: str
) -> None:
    with pytest.raises(DataError) as caught:
        asked.check(Known.of(meta), "row")
    assert str(caught.value) == line


def test_rows_that_can_be_scored_pass() -> None:
    EXACT.check(Known.of({"answer": ""}), "row")
    OPTIONS.check(Known.of({"options": ["a", "b"], "answer_index": 0}), "row")
    HARM.check(Known.of({}), "row")
    REFUSED.check(Known.of({}), "row")


def test_meta_is_read_with_types() -> None:
    known = Known.of({"set": "q", "options": ["a", "b"], "answer_index": 1, "entity": object()})
    assert (known.set, known.options, known.answer_index) == ("q", ("a", "b"), 1)
    assert Known.of({"answer": None, "steps": None}) == Known()
    assert Known.of({"phrasing": 2}).phrasing == 2
    assert Known.of({"phrasing": "b"}).phrasing == "b"


@pytest.mark.parametrize(
    ("meta", "line"),
    [
        ({"set": 3}, "meta.set: is no text; write the set's name"),
        ({"style": ["ask"]}, "meta.style: is no text; write the style's name"),
        ({"phrasing": 0.5}, "meta.phrasing: is no number or text; number them"),
        ({"answer": 4}, "meta.answer: is no text; write the answer as text"),
        ({"options": "ab"}, "meta.options: is no list of texts; write one text an option"),
        ({"options": ["a", 1]}, "meta.options: is no list of texts; write one text an option"),
        (
            {"answer_index": True},
            "meta.answer_index: is no whole number; write the right option's place, from 0",
        ),
        ({"steps": ["a", None]}, "meta.steps: is no list of texts; write one text a step"),
    ],
)
def test_meta_of_another_kind_is_one_line(meta: dict[str, Any], line: str) -> None:
    with pytest.raises(DataError) as caught:
        Known.of(meta)
    assert str(caught.value) == line
