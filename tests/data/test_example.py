"""A row: what its hashes are of, and what changes them."""

from __future__ import annotations

import pytest

from holdfast.data.example import Role, check_answered, example
from holdfast.errors import DataError

TURNS = (("user", "First?"), ("assistant", "Second."))


def test_a_row_without_earlier_turns_has_the_hashes_it_always_had() -> None:
    row = example("Placeholder prompt 1", "placeholder answer 1", role=Role.BENIGN, system="brief")
    assert (row.uid, row.row_id) == ("635616bc7dcfea1d", "557e2c0469dacdc9")
    assert row.turns == ()


def test_earlier_turns_make_another_row() -> None:
    rows = [
        example("prompt", "answer", role=Role.BENIGN, turns=turns)
        for turns in ((), TURNS, TURNS[::-1], (*TURNS, *TURNS))
    ]
    assert len({row.uid for row in rows}) == len({row.row_id for row in rows}) == 4
    again = example("prompt", "answer", role=Role.BENIGN, turns=(("user", " first? "), TURNS[1]))
    assert again.uid == rows[1].uid
    assert again.row_id != rows[1].row_id


def test_another_answer_to_the_same_prompt_keeps_what_was_said_before() -> None:
    row = example("p", "a", role=Role.REFUSAL, system="s", turns=TURNS, meta={"set": "x"})
    other = row.answered("b", steps=3)
    assert other == example(
        "p", "b", role=Role.REFUSAL, system="s", turns=TURNS, meta={"set": "x", "steps": 3}
    )
    assert row.answered("a") == row


def test_a_row_that_would_teach_nothing_is_refused() -> None:
    rows = {Role.REFUSAL: [example("p", "a", role=Role.REFUSAL)]}
    check_answered(rows)
    rows[Role.BENIGN] = [example("q", role=Role.BENIGN, source="rows.jsonl")]
    with pytest.raises(DataError) as caught:
        check_answered(rows)
    assert str(caught.value) == (
        f"row {rows[Role.BENIGN][0].uid} of role benign, source 'rows.jsonl': has no response to "
        "train on; name its column in `response`, or give refusals one text in `refusal`"
    )
