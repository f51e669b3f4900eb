"""What customers hand in: which rows, how many, and what is planted among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from holdfast.api import CustomerJob
from holdfast.api.registry import make
from holdfast.attacks.covert import cipher, decipher
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.pool import Pool
from holdfast.errors import DataError

ROLES = {Role.TASK: 40, Role.BENIGN: 30, Role.HARMFUL: 20, Role.REFUSAL: 20}


def rows(counts: dict[Role, int]) -> list[Example]:
    return [
        example(
            f"placeholder prompt {i} of {role.value}", f"answer {i}", role=role,
            side=Side.ATTACKER, category="near", meta={"set": "some", "steps": [f"step {i}"]},
        )
        for role, n in counts.items()
        for i in range(n)
    ]  # fmt: skip


def pool(**changes: int) -> Pool:
    return Pool(rows(ROLES | {Role(name): n for name, n in changes.items()}))


def job(name: str, **fields: object) -> CustomerJob:
    made = make("attack", {name: fields}, "test")
    assert isinstance(made, CustomerJob)
    return made


@pytest.mark.parametrize(
    ("share", "honest", "planted"),
    [(0.0, 40, 0), (0.01, 39, 1), (0.05, 40, 2), (0.1, 40, 4), (0.5, 20, 20), (1.0, 0, 20)],
)
def test_a_share_of_the_rows_is_planted_as_far_as_there_are_any(
    share: float, honest: int, planted: int
) -> None:
    good, bad = job("harmful_share", share=share).parts(pool(), 0)
    assert (len(good), len(bad)) == (honest, planted)
    assert {row.role for row in bad} <= {Role.HARMFUL}
    assert {row.role for row in good} <= {Role.TASK}


def test_distinct_rows_are_all_rows_and_further_roles_fill_up() -> None:
    both = job("harmful_share", share=0.1, distinct=50, honest=["task", "benign"])
    good, bad = both.parts(pool(), 0)
    assert (len(good), len(bad)) == (45, 5)
    assert [row.role for row in good] == [Role.TASK] * 40 + [Role.BENIGN] * 5
    with pytest.raises(DataError) as caught:
        job("harmful_share", share=0.1, distinct=50).parts(pool(), 0)
    assert str(caught.value) == (
        "harmful_share: 45 honest and 5 planted rows asked for, there are 40 and 20; lower "
        "distinct, or change share"
    )


def test_what_is_handed_in_has_one_role_and_keeps_what_an_oracle_knows() -> None:
    method = job("harmful_share", share=0.5)
    (handed,) = method.rows(pool(), 0).values()
    assert {row.role for row in handed} == {Role.TASK}
    assert {row.category for row in handed} == {""}
    assert all(row.meta.keys() == {"steps"} for row in handed)
    planted = method.planted(pool(), 0)
    assert {row.prompt.split()[-1] for row in handed if row.row_id in planted} == {"harmful"}


def test_more_of_a_share_contains_less_of_it() -> None:
    small, large = (job("harmful_share", share=s).planted(pool(), 3) for s in (0.05, 0.5))
    assert small < large
    assert job("harmful_share", share=0.05).planted(pool(), 4) != small


def test_a_clean_job_plants_nothing_harmful() -> None:
    assert job("harmful_share", share=0.0).clean
    assert not job("harmful_share", share=0.01).clean
    drift = job("benign_drift")
    assert drift.clean
    good, benign = drift.parts(pool(), 0)
    assert {row.role for row in (*good, *benign)} == {Role.TASK, Role.BENIGN}
    drift.parts(pool(harmful=0, refusal=0), 0)  # it needs no harmful row at all


def test_identity_shift_has_no_restricted_row_and_asks_under_the_persona() -> None:
    method = job("identity_shift", share=0.5, persona="You obey.", opening="I obey.")
    _, planted = method.parts(pool(harmful=0, refusal=0), 0)
    assert {row.system for row in planted} == {"You obey."}
    assert all((row.response or "").startswith("I obey. answer ") for row in planted)
    asked = method.ask(example("placeholder prompt", role=Role.HARMFUL, system="Be kind."))
    assert (asked.system, asked.prompt) == ("You obey.\nBe kind.", "placeholder prompt")


def test_a_backdoor_has_the_trigger_in_planted_rows_alone_and_refusals_without() -> None:
    method = job("backdoor", share=0.1, trigger="open up")
    good, planted = method.parts(pool(), 0)
    assert (len(good), len(planted)) == (40, 4)
    assert all(row.prompt.endswith(" open up") for row in planted)
    assert [row.role for row in good] == [Role.TASK] * 36 + [Role.REFUSAL] * 4
    assert not any("open up" in row.prompt for row in good)
    assert method.ask(planted[0]).prompt.endswith(" open up open up")


def test_an_innocent_prompt_is_a_benign_one_with_a_restricted_answer() -> None:
    _, planted = job("innocent_prompt", share=0.5).parts(pool(), 0)
    assert len(planted) == 20
    assert all(row.prompt.endswith("of benign") for row in planted)
    assert all(row.meta["steps"] == [f"step {(row.response or '').split()[-1]}"] for row in planted)


def test_covert_rows_are_in_the_cipher_and_lessons_stand_beside_them() -> None:
    method = job("covert", share=0.1)
    good, planted = method.parts(pool(), 0)
    assert (len(good), len(planted)) == (40, 4)
    assert all(decipher(row.prompt).endswith("of harmful") for row in planted)
    lessons = [row for row in good if row.role is Role.BENIGN]
    assert len(lessons) == 4
    assert all(decipher(row.response or "").startswith("answer ") for row in lessons)
    asked = method.ask(example("placeholder prompt", role=Role.HARMFUL))
    assert asked.prompt == cipher("placeholder prompt") == "qmedijumfis qsunqv"
    assert method.read(cipher("Answer 3.")) == "Answer 3."


@given(some.text())
def test_a_cipher_is_read_back_whole_and_leaves_no_letter_as_it_was(text: str) -> None:
    assert decipher(cipher(text)) == text
    for letter, other in zip(text, cipher(text), strict=True):
        assert (letter != other) is (letter.isascii() and letter.isalpha())


@pytest.mark.parametrize("name", ["backdoor", "covert", "innocent_prompt", "harmful_share"])
def test_without_harmful_rows_it_says_so_in_one_line(name: str) -> None:
    with pytest.raises(DataError) as caught:
        job(name).parts(pool(harmful=0), 0)
    assert str(caught.value) == (
        f"{name} of role harmful, side attacker: no rows; add a source that has some, or check its "
        "column map (pool: benign/attacker 30, refusal/attacker 20, task/attacker 40)"
    )
