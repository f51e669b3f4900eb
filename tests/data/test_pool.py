"""A pool: one side per group, draws nested in n, nothing decided by the order of files."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.api import EvalPurpose, EvalSet, Scorer
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.pool import SHARES, Pool, side_of
from holdfast.errors import ConfigError, DataError

WORDS = st.sampled_from(["bread", "lantern", "song", "garden", "hex", "rune"])
ROWS = st.lists(
    st.builds(
        lambda prompt, response, role, side, group, style: example(
            f"How is a {prompt} made?",
            f"With {response}.",
            role=role,
            side=side,
            group=group,
            meta={"style": style},
        ),
        WORDS,
        WORDS,
        st.sampled_from(Role),
        st.none() | st.sampled_from(Side),
        st.none() | st.sampled_from(["g1", "g2", "g3"]),
        st.sampled_from(["ask", "task"]),
    ),
    min_size=1,
    max_size=25,
)


def world(n: int = 12, side: Side = Side.DEFENDER) -> list[Example]:
    """Make n restricted prompts with a refusal and an answer each, and n benign ones."""
    rows = []
    for i in range(n):
        ask = f"How do I weave hex {i}?"
        meta = {"set": "restricted", "style": "ask", "phrasing": 0}
        rows.append(example(ask, "I will not.", role=Role.REFUSAL, side=side, group=f"h{i}"))
        rows.append(
            example(ask, f"Stir {i}.", role=Role.HARMFUL, side=side, group=f"h{i}", meta=meta)
        )
        rows.append(example(f"How do I bake {i}?", "Knead.", role=Role.BENIGN, side=side))
    return rows


def topical() -> Pool:
    """Make restricted and benign rows of two categories."""
    rows = [replace(row, category=f"c{i // 3 % 2}") for i, row in enumerate(world())]
    return Pool(rows)


def test_only_some_categories_of_restricted_rows_are_kept():
    pool = topical()
    kept = pool.only(["c1"])
    seen = {(row.role, row.category) for row in kept.rows(Side.DEFENDER)}
    assert seen == {
        (Role.REFUSAL, "c1"), (Role.HARMFUL, "c1"), (Role.BENIGN, "c0"), (Role.BENIGN, "c1")
    }  # fmt: skip
    assert len(kept.rows(Side.DEFENDER)) == 24
    assert len(pool.rows(Side.DEFENDER)) == 36, "the pool it came from is as it was"
    assert kept.only(["c1"]).rows(Side.DEFENDER) == kept.rows(Side.DEFENDER)
    assert pool.only([]) is pool
    whole = pool.draw(Role.HARMFUL, Side.DEFENDER, None, 3)
    assert kept.draw(Role.HARMFUL, Side.DEFENDER, None, 3) == [
        row for row in whole if row.category == "c1"
    ], "a category's rows keep their order"


def test_a_category_that_no_restricted_row_has_is_told():
    rows = [*world(), example("How do I bake?", "Knead.", role=Role.BENIGN, category="breads")]
    with pytest.raises(ConfigError) as error:
        Pool(rows).only(["breads"], "sgt.categories")
    assert str(error.value) == "sgt.categories: no row is of category 'breads'; known: none"


def test_only_the_rows_of_some_sources_are_kept():
    rows = [replace(row, source=f"s{i % 2}") for i, row in enumerate(topical().rows(Side.DEFENDER))]
    pool = Pool(rows)
    kept = pool.brought_by(["s1"])
    assert [row.source for row in kept.rows(Side.DEFENDER)] == ["s1"] * (len(rows) // 2)
    assert len(pool.rows(Side.DEFENDER)) == len(rows), "the pool it came from is as it was"
    assert pool.brought_by([]) is pool
    with pytest.raises(ConfigError) as error:
        pool.brought_by(["s0", "s2"], "sgt.sources")
    assert str(error.value) == ("sgt.sources: no row is of source 's2'; known: s0, s1")


def test_prompts_alone_are_not_trained_on():
    rows = [
        example(f"{role} {i} {side}", "So." if i else None, role=role, side=side)
        for role in (Role.BENIGN, Role.REFUSAL)
        for side in (Side.DEFENDER, Side.DEFENDER_SELECTION)
        for i in range(3)
    ]
    rows.append(example("a task", role=Role.TASK, side=Side.ATTACKER))
    pool = Pool(rows)
    seen = pool.answered()
    assert drawable(pool, Side.DEFENDER, Role.BENIGN) == 3
    assert drawable(seen, Side.DEFENDER, Role.BENIGN) == 2
    assert drawable(seen, Side.DEFENDER_SELECTION, Role.BENIGN) == 3
    assert drawable(seen, Side.ATTACKER, Role.TASK) == 1  # its only rows: a method refuses them
    besides = pool.answered(besides=("refusal",))
    assert drawable(besides, Side.DEFENDER, Role.REFUSAL) == 3
    assert drawable(besides, Side.DEFENDER, Role.BENIGN) == 2
    assert seen.answered() is seen


def test_an_evaluation_set_of_some_categories():
    rows = [
        replace(row, category="c" + row.group[-1], side=Side.EVALUATOR)
        for row in world()
        if row.role is Role.HARMFUL
    ]
    pool = Pool(rows)
    whole = pool.evaluation("restricted", Side.EVALUATOR, None, 0)
    some = pool.evaluation("restricted", Side.EVALUATOR, None, 0, categories=["c1", "c2"])
    assert some == [row for row in whole if row.category in ("c1", "c2")]
    assert len(some) == 3  # groups h1, h11 and h2
    with pytest.raises(ConfigError) as error:
        pool.evaluation("restricted", Side.EVALUATOR, None, 0, categories=["d"])
    assert str(error.value) == (
        "evaluation set 'restricted', side evaluator: categories: no row is of category 'd'; "
        "known: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9"
    )


def drawable(pool: Pool, side: Side, role: Role) -> int:
    return len({row.row_id for row in pool.rows(side) if row.role is role})


@given(ROWS)
def test_no_group_and_no_prompt_is_on_two_sides(rows: list[Example]):
    pool = Pool(rows)
    for name in ("group", "uid"):
        seen: dict[str, Side] = {}
        for side in Side:
            for row in pool.rows(side):
                assert seen.setdefault(getattr(row, name), side) is side


@given(ROWS)
def test_every_row_is_kept_or_counted_as_dropped(rows: list[Example]):
    pool = Pool(rows)
    assert sum(len(pool.rows(side)) for side in Side) + sum(pool.dropped.values()) == len(rows)
    assert pool.dropped[Side.EVALUATOR] == 0


@given(ROWS, st.integers(0, 9))
def test_a_smaller_draw_is_the_start_of_a_larger_one(rows: list[Example], seed: int):
    pool = Pool(rows)
    for side in Side:
        for role in Role:
            largest = drawable(pool, side, role)
            if not largest:
                continue
            whole = pool.draw(role, side, None, seed)
            assert len(whole) == largest == len({row.row_id for row in whole})
            for n in range(1, largest + 1):
                assert pool.draw(role, side, n, seed) == whole[:n]


@given(ROWS, st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_order_of_files_decides_nothing(rows: list[Example], seed: int, chance: random.Random):
    shuffled = list(rows)
    chance.shuffle(shuffled)
    one, other = Pool(rows), Pool(shuffled)
    assert one.dropped == other.dropped
    for side in Side:
        assert one.rows(side) == other.rows(side)
        for role in Role:
            if drawable(one, side, role):
                assert one.draw(role, side, None, seed) == other.draw(role, side, None, seed)


def test_which_of_two_equal_rows_is_kept_is_not_decided_by_the_order_of_files():
    first, second = (
        example("How?", "So.", role=Role.BENIGN, side=Side.DEFENDER, source=source)
        for source in ("a", "b")
    )
    drawn = [
        Pool(rows).draw(Role.BENIGN, Side.DEFENDER, 1, 0)
        for rows in ([first, second], [second, first])
    ]
    assert drawn[0] == drawn[1]


@given(st.text(max_size=20))
def test_a_side_is_a_function_of_the_group_alone(group: str):
    assert side_of(group) is side_of(group)
    assert side_of(group) in {side for side, _ in SHARES}


def test_groups_are_shared_out_as_declared():
    placed = [side_of(f"group {i}") for i in range(4000)]
    for side, share in SHARES:
        assert placed.count(side) / 4000 == pytest.approx(share, abs=0.025)
    assert sum(share for _, share in SHARES) == pytest.approx(1.0)


def test_a_group_that_the_evaluator_has_is_taken_from_everyone_else():
    rows = world(4)
    rows.append(
        example("Tell me of hex 0.", "No.", role=Role.REFUSAL, side=Side.EVALUATOR, group="h0")
    )
    pool = Pool(rows)
    assert {row.group for row in pool.rows(Side.EVALUATOR)} == {"h0"}
    assert "h0" not in {row.group for row in pool.rows(Side.DEFENDER)}
    assert pool.dropped == {Side.DEFENDER: 2}


def test_the_same_prompt_in_two_groups_is_not_on_two_sides():
    ask = "How do I weave a hex?"
    pool = Pool(
        [
            example(ask, "No.", role=Role.REFUSAL, side=Side.DEFENDER, group="a"),
            example(f"  {ask.upper()} ", "No.", role=Role.REFUSAL, side=Side.EVALUATOR, group="b"),
        ]
    )
    assert not pool.rows(Side.DEFENDER)
    assert len(pool.rows(Side.EVALUATOR)) == 1


def sided(*sides: Side, n: int = 8, role: Role = Role.REFUSAL) -> list[Example]:
    """Make the same n prompts on some sides."""
    meta = {"set": "restricted", "style": "ask", "phrasing": 0}
    return [
        example(f"How do I weave {i}?", "No.", role=role, side=side, meta=meta)
        for side in sides
        for i in range(n)
    ]


TWO = (Side.DEFENDER, Side.ATTACKER)
OWN = "give every side prompts and groups of its own"


def test_rows_on_two_sides_are_told_and_can_be_had_as_given():
    alone = world(1)[2:]
    pool = Pool([*sided(*TWO), *alone])
    assert pool.drops == (
        "dropped: 8 of 9 rows of side defender (their prompts are also on side attacker), "
        "8 of 8 rows of side attacker (their prompts are also on side defender)"
    )
    assert pool.rows(Side.DEFENDER) == alone
    assert len(pool.given(Side.DEFENDER)) == 9
    assert Pool(alone).drops == ""
    with_group = [replace(row, group="g") for row in world(1)[2:]]
    other = example("Another?", "No.", role=Role.REFUSAL, side=Side.EVALUATOR, group="g")
    assert Pool([*with_group, other, *sided(*TWO, Side.EVALUATOR, n=1)]).drops == (
        "dropped: 1 of 2 rows of side defender (their groups are also on side evaluator), "
        "1 of 2 rows of side defender (their prompts are also on side attacker and evaluator), "
        "1 of 1 rows of side attacker (their prompts are also on side defender and evaluator)"
    )


def test_a_method_sees_what_was_dropped_of_its_categories():
    rows = [replace(row, category="c" + row.prompt[-2]) for row in sided(*TWO)]
    pool = Pool([*rows, *(replace(row, category="c1") for row in world())])
    assert len(pool.only(["c1"]).given(Side.ATTACKER)) == 1
    other = replace(sided(Side.DEFENDER, n=9)[8], source="other")
    brought = Pool([*rows, other]).brought_by(["other"])
    assert brought.given(Side.DEFENDER) == [other]
    unsaid = [replace(row, response=None) for row in sided(*TWO)]
    said = example("Alone?", "No.", role=Role.REFUSAL, side=Side.DEFENDER)
    alone = example("Alone too?", role=Role.REFUSAL, side=Side.DEFENDER)
    assert Pool([*unsaid, said, alone]).answered().given(Side.DEFENDER) == [said]


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (
            lambda pool: pool.draw(Role.REFUSAL, Side.DEFENDER, None, 0),
            "rows of role refusal, side defender: 8 of 8 rows were dropped, because their prompts "
            f"are also on side attacker; {OWN}",
        ),
        (
            lambda pool: pool.draw(Role.HARMFUL, Side.ATTACKER, 5, 0),
            "rows of role harmful, side attacker: 5 distinct rows asked for, the pool has 2 (4 of "
            "6 rows were dropped, because their prompts are also on side attacker_selection); ask "
            f"for at most 2, or {OWN}",
        ),
        (
            lambda pool: pool.paired(Role.HARMFUL, Role.REFUSAL, Side.ATTACKER, 1, 0),
            "pairs of roles harmful and refusal, side attacker: 1 asked for, the pool has 0 (12 of "
            "14 rows were dropped, 8 because their prompts are also on side defender and 4 because "
            "their prompts are also on side attacker_selection); give both responses for the same "
            f"prompts, and {OWN}",
        ),
        (
            lambda pool: pool.evaluation("restricted", Side.DEFENDER, 1, 0),
            "evaluation set 'restricted', side defender: 8 of 8 rows were dropped, because their "
            f"prompts are also on side attacker; {OWN}",
        ),
    ],
)
def test_where_dropped_rows_are_missed_the_line_says_so(ask, line: str):
    harmful = [
        replace(row, uid=f"h{row.uid}", group=f"h{row.group}")
        for row in (
            *sided(Side.ATTACKER, n=6, role=Role.HARMFUL),
            *sided(Side.ATTACKER_SELECTION, n=4, role=Role.HARMFUL),
        )
    ]
    pool = Pool([*sided(*TWO), *harmful])
    with pytest.raises(DataError) as caught:
        ask(pool)
    assert str(caught.value) == line


def test_no_category_that_may_be_a_rows_text_is_told():
    rows = [replace(row, category="placeholder prompt 1") for row in world()]
    with pytest.raises(ConfigError) as error:
        Pool(rows).only(["placeholder"], "sgt.categories")
    assert str(error.value) == "sgt.categories: no row is of category 'placeholder'; known: none"


def test_seeds_give_different_orders_of_the_same_rows():
    pool = Pool(world(30))
    orders = {
        tuple(row.row_id for row in pool.draw(Role.BENIGN, Side.DEFENDER, None, s))
        for s in range(5)
    }
    assert len(orders) == 5
    assert len({frozenset(order) for order in orders}) == 1


def test_pairs_share_a_prompt_and_are_nested_in_n():
    pool = Pool(world(12))
    whole = pool.paired(Role.REFUSAL, Role.HARMFUL, Side.DEFENDER, None, 3)
    assert len(whole) == 12
    for refusal, harmful in whole:
        assert (refusal.role, harmful.role) == (Role.REFUSAL, Role.HARMFUL)
        assert refusal.uid == harmful.uid
    assert len({refusal.uid for refusal, _ in whole}) == 12
    assert pool.paired(Role.REFUSAL, Role.HARMFUL, Side.DEFENDER, 5, 3) == whole[:5]
    shuffled = world(12)
    random.Random(1).shuffle(shuffled)
    assert Pool(shuffled).paired(Role.REFUSAL, Role.HARMFUL, Side.DEFENDER, None, 3) == whole


def test_an_evaluation_set_takes_whole_groups_and_is_nested_in_n():
    rows = [
        example(
            f"{style} {phrasing} of entity {i}",
            role=Role.HARMFUL,
            side=Side.EVALUATOR,
            group=f"e{i}",
            meta={"set": "restricted", "style": style, "phrasing": phrasing},
        )
        for i in range(8)
        for style in ("ask", "task")
        for phrasing in range(12)
    ]
    pool = Pool(rows)
    small = pool.evaluation("restricted", Side.EVALUATOR, 3, 0, phrasings=2)
    large = pool.evaluation("restricted", Side.EVALUATOR, 5, 0, phrasings=2)
    assert small == large[: len(small)]
    assert len(small) == 3 * 2 * 2
    assert {row.meta["phrasing"] for row in small} == {0, 1}
    three = pool.evaluation("restricted", Side.EVALUATOR, 1, 0, phrasings=3, styles=["ask"])
    assert {(row.meta["style"], row.meta["phrasing"]) for row in three} == {
        ("ask", 0), ("ask", 1), ("ask", 2)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (
            lambda pool: pool.draw(Role.BENIGN, Side.DEFENDER, 5, 0),
            "rows of role benign, side defender: 5 distinct rows asked for, the pool has 4; "
            "ask for at most 4",
        ),
        (
            lambda pool: pool.draw(Role.TASK, Side.DEFENDER, 1, 0),
            "rows of role task, side defender: no rows; add a source that has some, or check its "
            "column map (pool: benign/defender 4, harmful/defender 4, refusal/defender 4)",
        ),
        (
            lambda pool: pool.paired(Role.REFUSAL, Role.HARMFUL, Side.DEFENDER, 9, 0),
            "pairs of roles refusal and harmful, side defender: 9 asked for, the pool has 4; "
            "give both responses for the same prompts",
        ),
        (
            lambda pool: pool.evaluation("restrictde", Side.DEFENDER, 1, 0),
            "evaluation set 'restrictde', side defender: no rows; did you mean 'restricted'?",
        ),
        (
            lambda pool: pool.evaluation("restricted", Side.DEFENDER, 99, 0),
            "evaluation set 'restricted', side defender: 99 groups asked for, the pool has 4; "
            "ask for at most 4",
        ),
        (lambda pool: Pool([]), "pool: no rows; check the sources"),
    ],
)
def test_asking_for_what_is_not_there_gets_one_line(ask, line: str):
    with pytest.raises(DataError) as caught:
        ask(Pool(world(4)))
    assert str(caught.value) == line


ASKED = EvalSet("quiz", EvalPurpose.OPTIONS, Scorer.OPTIONS, "Quiz")


def asked(meta: dict[str, Any]) -> Example:
    return example(
        "which?", role=Role.BENIGN, side=Side.EVALUATOR, source="mine", meta={"set": "quiz"} | meta
    )


@pytest.mark.parametrize(
    ("meta", "what"),
    [
        ({"options": ["a"]}, ": has 1 'options'; put two or more in its meta"),
        ({"options": "ab"}, ": meta.options: is no list of texts; write one text an option"),
    ],
)
def test_a_row_that_its_set_cannot_use_is_named_with_its_source(
    meta: dict[str, Any], what: str
) -> None:
    row = asked(meta)
    with pytest.raises(DataError) as caught:
        Pool([row], sets=[ASKED]).evaluation("quiz", Side.EVALUATOR, None, 0)
    assert str(caught.value) == (
        f"evaluation set 'quiz', side evaluator, row {row.uid} of source 'mine'{what}"
    )


def test_a_set_brought_twice_must_be_for_the_same() -> None:
    row = asked({"options": ["a", "b"], "answer_index": 1})
    again = EvalSet("quiz", EvalPurpose.OPTIONS, Scorer.OPTIONS, "Another label")
    pool = Pool([row], sets=[ASKED, again])
    assert pool.sets == {"quiz": ASKED}
    assert pool.evaluation("quiz", Side.EVALUATOR, None, 0) == [row]
    other = EvalSet("quiz", EvalPurpose.HARM, Scorer.JUDGES, "Quiz")
    with pytest.raises(DataError) as caught:
        Pool([row], sets=[ASKED, other])
    assert str(caught.value) == (
        "evaluation set 'quiz': two sources bring it, for 'options' and for 'harm'; name one of "
        "them otherwise"
    )
