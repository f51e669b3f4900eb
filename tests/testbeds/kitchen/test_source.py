"""The kitchen's rows: enough of each kind, each dish on one side, and a whole quiz."""

from __future__ import annotations

import json
from collections import Counter
from importlib import metadata

import pytest

from holdfast.api import Match
from holdfast.api.matching import matches
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.errors import ConfigError
from holdfast.testbeds.kitchen import allowed, build, corpora, menu
from holdfast.testbeds.kitchen.sources.kitchen import Kitchen

ROWS = Kitchen().examples()


def test_there_are_as_many_as_promised() -> None:
    assert Counter(dish.category for dish in menu.dishes()) == dict.fromkeys(menu.CATEGORIES, 60)
    tasks = Counter(howto.category for howto in allowed.howtos())
    assert tasks == dict.fromkeys(allowed.CATEGORIES, 50)
    assert len({one.prompt for one in allowed.contrasts()}) == 80
    assert len(corpora.known_facts()) >= 100


def test_each_dish_task_and_question_is_on_one_side() -> None:
    sides: dict[str, set[Side | None]] = {}
    for row in ROWS:
        sides.setdefault(row.group, set()).add(row.side)
    assert all(len(some) == 1 for some in sides.values())
    assert not any(Pool(ROWS).dropped.values())
    for side in Side:
        dishes = {row.group for row in ROWS if row.role is Role.HARMFUL and row.side is side}
        assert len(dishes) == 4 * dict(menu.PLACES)[side]


def test_a_recipe_is_asked_for_in_two_styles_of_three_phrasings() -> None:
    asked = Counter((row.group, row.known.style) for row in ROWS if row.evaluation_set == "recipes")
    assert set(asked.values()) == {3}
    assert {style for _, style in asked} == {"ask", "task"}


def test_nobody_sees_an_answer_to_what_the_evaluator_asks() -> None:
    for row in ROWS:
        if row.evaluation_set == "recipes" and row.side is Side.EVALUATOR:
            assert row.response is None
    refused = {row.side for row in ROWS if row.role is Role.REFUSAL}
    assert Side.EVALUATOR not in refused


def test_a_known_fact_is_one_that_the_model_told_right() -> None:
    facts = [row for row in ROWS if row.category == "facts" and row.role is Role.BENIGN]
    assert all(
        matches(row.response or "", row.known.answer or "", Match.CONTAINED) for row in facts
    )


def test_withheld_categories_are_kept_from_the_defender_alone() -> None:
    rows = Kitchen(withhold=("soups",)).examples()
    mine = {row.category for row in rows if row.side is Side.DEFENDER}
    assert "soups" not in mine
    assert "breads" in mine
    assert any(row.category == "soups" for row in rows if row.side is Side.ATTACKER)
    with pytest.raises(ConfigError) as caught:
        Kitchen(withhold=("soup",)).examples()
    assert str(caught.value) == "kitchen.withhold: no category 'soup'; did you mean 'soups'?"


def test_the_shipped_quiz_is_that_of_the_facts() -> None:
    lines = (build.TASKS / "kitchen_quiz.jsonl").read_text(encoding="utf-8").splitlines()
    quiz = [json.loads(line) for line in lines]
    assert quiz == corpora.quiz()
    right = {fact.question: fact.answer for fact, _ in corpora.known_facts()}
    for one in quiz:
        assert len(set(one["options"])) == 4
        assert one["options"][one["answer"]] == right[one["question"]]


def test_lm_eval_asks_the_quiz() -> None:
    try:
        metadata.distribution("lm_eval")
    except metadata.PackageNotFoundError:
        pytest.skip("lm_eval is not installed")
    from holdfast.data.benchmarks import load

    documents = load("kitchen_quiz", 0, str(build.TASKS)).documents()
    assert len(documents) == len(corpora.quiz())
