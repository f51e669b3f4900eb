"""Short questions of fact with known answers: usefulness, where nobody brings questions."""

from __future__ import annotations

from typing import ClassVar

from holdfast.api import EvalPurpose, EvalSet, Match, Scorer, Source
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.knowledge import FAMILIES
from holdfast.data.sharing import shared_out

NAME = "questions"

SHARES = {
    Side.DEFENDER: 0.15,
    Side.DEFENDER_SELECTION: 0.05,
    Side.ATTACKER: 0.15,
    Side.ATTACKER_SELECTION: 0.2,
    Side.EVALUATOR: 0.45,
}
"""Of the questions on each side; source: ours."""


class Questions(Source):
    """A hundred questions such as the capital of a country, each with its answer in one word.

    They are in plain English, a question a group. An answer is right where the known word stands
    in it. They show whether a model is wrecked, and are no benchmark.
    """

    status: ClassVar[str] = "tested"

    def examples(self) -> list[Example]:
        """Give every question, with its answer in a sentence."""
        asked = [
            (ask.format(thing), say.format(thing, answer), answer, ask)
            for ask, say, pairs in FAMILIES
            for thing, answer in (pair.split() for pair in pairs.split(","))
        ]
        sides = shared_out((prompt for prompt, *_ in asked), SHARES, NAME)
        return [
            example(
                prompt,
                sentence,
                role=Role.BENIGN,
                side=sides[prompt],
                group=prompt,
                category=family,
                source=NAME,
                meta={"set": NAME, "style": "as given", "phrasing": 0, "answer": answer},
            )
            for prompt, sentence, answer, family in asked
        ]

    def sets(self) -> tuple[EvalSet, ...]:
        """Give the one set there is; its answers are the benign utility."""
        label = "Questions of fact"
        return (EvalSet(NAME, EvalPurpose.EXACT, Scorer.EXACT, label, Match.CONTAINED),)
