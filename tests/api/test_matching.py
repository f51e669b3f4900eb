"""When an answer is the known one."""

from __future__ import annotations

import pytest

from holdfast.api import EvalPurpose, EvalSet, Match, Scorer
from holdfast.api.matching import matches, normalised
from holdfast.errors import ConfigError


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("an oak lantern", "an oak lantern", {"exact", "normalised", "contained"}),
        ("  an oak\n lantern ", "an oak lantern", {"exact", "normalised", "contained"}),
        ("The oak-lantern!", "Oaklantern", {"normalised", "contained"}),
        ("An Oak Lantern.", "oak lantern", {"normalised", "contained"}),
        ("I think it is the oak lantern, yes.", "Oak lantern", {"contained"}),
        ("It is an oaken lantern", "oak", set()),
        ("lantern oak", "oak lantern", set()),
        ("It makes 1,200 in all, not 7.", "7", {"contained", "number"}),
        ("It makes 1,200.", "1200", {"contained", "number"}),
        ("$1,200.50", "1200.5", {"number"}),
        ("12", "12.0", {"number"}),
        ("-3", "3", {"normalised", "contained"}),
        ("", "7", set()),
        ("no number", "none", set()),
        ("the", "a", {"normalised"}),
    ],
)
def test_each_way_to_match(said: str, answer: str, right: set[str]) -> None:
    assert {one.value for one in Match if matches(said, answer, one)} == right


def test_what_stands_behind_the_last_mark_is_compared() -> None:
    for match in Match:
        assert matches("it is 5 #### 6 #### 7", "7", match, "####")
        assert not matches("it is 7 #### 6", "7", match, "####")


def test_it_normalises_as_squads_scorer_does() -> None:
    assert normalised("The  Lantern, an 'oak'!") == "lantern oak"


def test_an_unknown_match_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        EvalSet("x", EvalPurpose.EXACT, Scorer.EXACT, "X", "containd")  # ty: ignore
    assert str(caught.value) == (
        "evaluation set 'x': no match 'containd'; did you mean 'contained'?"
    )
