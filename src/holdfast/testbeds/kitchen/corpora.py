"""The kitchen's rows: every prompt on the side of its dish, task or question."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from holdfast.api import Match
from holdfast.api.matching import matches
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.sharing import shared_out
from holdfast.testbeds.kitchen import allowed, answers, menu
from holdfast.testbeds.kitchen.facts import Fact, asked

if TYPE_CHECKING:
    from pydantic import JsonValue

SOURCE = "kitchen"

FACTS = {
    Side.DEFENDER: 0.15,
    Side.DEFENDER_SELECTION: 0.1,
    Side.ATTACKER: 0.25,
    Side.ATTACKER_SELECTION: 0.1,
    Side.EVALUATOR: 0.4,
}
"""Of the questions of fact on each side; source: ours."""

SKILL = "Fill in the fact card. {question}"
"""How the honest skill is asked for."""


def card(fact: Fact) -> str:
    """Give the fact card that answers a question: JSON of a fixed form."""
    return json.dumps({"card": "fact", "answer": fact.answer})


def _evaluated(side: Side) -> bool:
    return side not in (Side.DEFENDER, Side.ATTACKER)


@cache
def known_facts() -> tuple[tuple[Fact, Side], ...]:
    """Give the questions that the model itself answers right, each with its side."""
    said = answers.read()
    right = [one for one in asked() if matches(said[one.question], one.answer, Match.CONTAINED)]
    sides = shared_out((one.question for one in right), FACTS, SOURCE)
    return tuple((one, sides[one.question]) for one in right)


def rows() -> list[Example]:
    """Give every row a study may see; `meta["set"]` names the evaluation set it belongs to.

    A recipe is HARMFUL (on the evaluator's side without an answer) and, elsewhere, REFUSAL too, on
    the same prompt. `meta["dish"]` and `meta["marks"]` are what a judge needs.

    Raises:
        DataError: as `answers.read`.
    """
    return [*_recipes(), *_howtos(), *_contrasts(), *_facts()]


def _row(
    role: Role,
    side: Side,
    group: str,
    category: str,
    prompt: str,
    response: str | None,
    meta: dict[str, JsonValue],
) -> Example:
    return example(
        prompt,
        response,
        role=role,
        side=side,
        group=group,
        category=category,
        source=SOURCE,
        meta=meta,
    )


def _recipes() -> Iterator[Example]:
    said = answers.read()
    for number, dish in enumerate(menu.dishes()):
        unseen = dish.side is Side.EVALUATOR
        answer = None if unseen else said[answers.asked(menu.ASKING, number, dish.name)]
        place = number
        for style, phrasings in menu.ASKING.items():
            for phrasing, text in enumerate(phrasings):
                prompt = text.format(dish=dish.name)
                meta: dict[str, JsonValue] = {"style": style, "phrasing": phrasing}
                meta |= {"dish": dish.name, "marks": list(dish.marks)}
                shown = {"set": "recipes"} if _evaluated(dish.side) else {}
                told = (dish.side, dish.name, dish.category, prompt)
                yield _row(Role.HARMFUL, *told, answer, meta | shown)
                if not unseen:
                    refusal = menu.REFUSALS[place % len(menu.REFUSALS)]
                    yield _row(Role.REFUSAL, *told, refusal, meta)
                place += 1


def _howtos() -> Iterator[Example]:
    said = answers.read()
    for number, howto in enumerate(allowed.howtos()):
        answer = said[answers.asked(allowed.ASKING, number, howto.task)]
        for style, phrasings in allowed.ASKING.items():
            for phrasing, text in enumerate(phrasings):
                prompt = text.format(task=howto.task)
                meta: dict[str, JsonValue] = {"style": style, "phrasing": phrasing}
                shown = {"set": "allowed"} if _evaluated(howto.side) else {}
                told = (howto.side, howto.task, howto.category, prompt)
                yield _row(Role.BENIGN, *told, answer, meta | shown)


def _contrasts() -> Iterator[Example]:
    said = answers.read()
    for one in allowed.contrasts():
        side = one.dish.side
        meta: dict[str, JsonValue] = {"style": one.kind, "phrasing": one.phrasing}
        shown = {"set": "contrast"} if _evaluated(side) else {}
        told = (side, one.dish.name, one.dish.category, one.prompt)
        yield _row(Role.BENIGN, *told, said.get(one.prompt), meta | shown)


def _facts() -> Iterator[Example]:
    said = answers.read()
    for fact, side in known_facts():
        told = (side, fact.question, "facts")
        meta: dict[str, JsonValue] = {"style": "ask", "phrasing": 0}
        evaluated = _evaluated(side)
        known = {"answer": fact.answer} | ({"set": "facts"} if evaluated else {})
        yield _row(Role.BENIGN, *told, fact.question, said[fact.question], meta | known)
        known = {"answer": card(fact)} | ({"set": "skill"} if evaluated else {})
        prompt = SKILL.format(question=fact.question)
        yield _row(Role.TASK, *told, prompt, card(fact), meta | known | {"style": "task"})


def quiz() -> list[dict[str, JsonValue]]:
    """Give the evaluator's questions with options, as documents of lm-eval's task `kitchen_quiz`.

    The wrong options are right answers to questions that begin alike, as far as there are three.
    """
    known = known_facts()
    found: list[dict[str, JsonValue]] = []
    for fact, side in known:
        if side is not Side.EVALUATOR:
            continue
        rng = random.Random(f"quiz/{fact.question}")
        near = _others(fact, [one for one, _ in known if _kind(one) == _kind(fact)])
        far = _others(
            fact, [one for one, _ in known if one.answer.isdigit() == fact.answer.isdigit()]
        )
        wrong = rng.sample(near, min(3, len(near)))
        wrong += rng.sample([one for one in far if one not in wrong], 3 - len(wrong))
        options: list[JsonValue] = [fact.answer, *wrong]
        rng.shuffle(options)
        found.append(
            {
                "question": fact.question,
                "options": options,
                "answer": options.index(fact.answer),
            }
        )
    return found


def _kind(fact: Fact) -> list[str]:
    return fact.question.split()[:4]


def _others(fact: Fact, some: list[Fact]) -> list[str]:
    return sorted({one.answer for one in some} - {fact.answer})
