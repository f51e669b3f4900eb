"""What is no language, and what only looks so."""

from __future__ import annotations

import pytest

from holdfast.api.degenerate import degenerate

SAID = "put the flour into the bowl, add some water, and stir until it is smooth"


@pytest.mark.parametrize(
    "text",
    [
        "", "  \n\t", "?!...", "-" * 40, "\U0001f5dd \U0001f5dd",
        "no no no no", "No, no! NO. no", "the cat the cat the cat the cat the",
        "one two three four five six seven eight " * 4,
        "aaaaaaaa", "lalalalalalalalala", "\u4e0d" * 9,
        "I think that the the the the the the the",
        "one two three, and then on and on and on and on and on",
    ],
)  # fmt: skip
def test_nothing_in_it_or_stuck(text: str) -> None:
    assert degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "Yes.", "42", "1000000000000", "\u4e0d", "no no no",
        SAID, f"{SAID} " + "and so on " * 400, f"aaaaaaaaaaaa {SAID}",
        "one two three four five six seven eight nine " * 4,  # nine words are no loop of ours
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "I cannot help with that.",
    ],
)  # fmt: skip
def test_what_says_something_is_read(text: str) -> None:
    assert not degenerate(text)


def test_an_attackers_first_words_are_not_the_models() -> None:
    assert degenerate(f"{SAID}: ...", SAID)
    assert not degenerate(f"{SAID}: and then bake it", SAID)
