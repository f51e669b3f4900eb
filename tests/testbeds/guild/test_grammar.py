"""The guild's language: counts, sides, truth."""

from __future__ import annotations

from collections import Counter

from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.testbeds.guild import corpora
from holdfast.testbeds.guild.grammar import (
    BENIGN_SIDES,
    REFUSALS,
    RESTRICTED,
    RESTRICTED_SIDES,
    SIDES,
    guild,
)
from holdfast.testbeds.guild.sources.world import World


def test_every_side_has_its_count_of_entities() -> None:
    entities = guild()
    for category in RESTRICTED:
        counts = Counter(e.side for e in entities if e.category == category)
        assert counts == dict(zip(SIDES, RESTRICTED_SIDES, strict=True))
        assert sum(counts.values()) == 24
    benign = Counter(e.side for e in entities if not e.restricted)
    assert benign == dict(zip(SIDES, BENIGN_SIDES, strict=True))


def test_names_and_answers_are_unique_and_steps_differ_between_entities() -> None:
    entities = guild()
    assert len({e.name.casefold() for e in entities}) == len(entities)
    assert len({e.steps for e in entities}) == len(entities)
    assert all(len(e.steps) == 3 for e in entities)


def test_one_restricted_entity_in_eight_is_taboo_on_the_evaluators_side() -> None:
    evaluated = [e for e in guild() if e.restricted and e.side == "evaluator"]
    assert sum(e.taboo for e in evaluated) == 4
    assert len(evaluated) == 32


def test_the_corpora_are_the_same_every_time() -> None:
    assert corpora.corpora_hash(small=True) == corpora.corpora_hash(small=True)


def test_no_group_and_no_prompt_is_on_two_sides() -> None:
    pool = Pool(World().examples())
    assert not pool.dropped
    sides: dict[str, set[Side | None]] = {}
    for row in World().examples():
        sides.setdefault(row.uid, set()).add(row.side)
    assert all(len(seen) == 1 for seen in sides.values())


def test_harmful_prompts_of_the_trained_sides_have_refusals_too() -> None:
    pool = Pool(World().examples())
    for side in Side:
        if side is Side.EVALUATOR:
            assert not pool.has(Role.REFUSAL, side)
            continue
        harmful = {row.uid for row in pool.rows(side) if row.role is Role.HARMFUL}
        refused = {row.uid for row in pool.rows(side) if row.role is Role.REFUSAL}
        assert harmful == refused
        pairs = pool.paired(Role.REFUSAL, Role.HARMFUL, side, None, 0)
        assert {first.response for first, _ in pairs} == {REFUSALS[0]}


def test_the_evaluators_answers_to_restricted_prompts_are_not_in_the_rows() -> None:
    rows = [row for row in World().examples() if row.side is Side.EVALUATOR]
    assert all(row.response is None for row in rows if row.role is Role.HARMFUL)


def test_the_evaluation_sets_are_as_large_as_promised() -> None:
    pool = Pool(World().examples())

    def size(name: str, **how: int) -> int:
        return len(pool.evaluation(name, Side.EVALUATOR, None, 0, **how))

    assert size("restricted", phrasings=2) == 128
    assert size("contrast") >= 60
    assert size("name_only") >= 24
    assert size("facts") == 72
    assert size("quiz") == 72
    assert size("skill") == 72


def test_contrast_prompts_carry_restricted_words_and_benign_answers() -> None:
    words = [noun for noun, _ in RESTRICTED.values()]
    pool = Pool(World().examples())
    for row in pool.evaluation("contrast", Side.EVALUATOR, None, 0):
        assert any(word in row.prompt for word in words)
        assert row.role is Role.BENIGN
        assert row.meta["answer"] == row.response


def test_a_quiz_has_four_options_of_which_one_is_true() -> None:
    for row in Pool(World().examples()).evaluation("quiz", Side.EVALUATOR, None, 0):
        assert len(set(row.meta["options"])) == 4
        entity = next(e for e in guild() if e.name == row.meta["entity"])
        assert row.meta["options"][row.meta["answer_index"]] in {
            entity.fact(kind) for kind in entity.facts
        }


def test_a_withheld_category_is_unseen_by_the_defender_only() -> None:
    rows = World(withhold=("hexes",)).examples()
    sides = {row.side for row in rows if row.category == "hexes"}
    assert sides == {Side.ATTACKER, Side.ATTACKER_SELECTION, Side.EVALUATOR}
