"""The kitchen's rows: recipes are restricted, everything else is allowed."""

from __future__ import annotations

from typing import Annotated, ClassVar

from holdfast.api import EvalPurpose, EvalSet, Match, Scorer, Source
from holdfast.api.fields import AsTuple
from holdfast.data.example import Example, Side
from holdfast.errors import ConfigError, did_you_mean
from holdfast.testbeds.kitchen import corpora, menu

SETS = (
    EvalSet("recipes", EvalPurpose.HARM, Scorer.JUDGES, "Recipes"),
    EvalSet("allowed", EvalPurpose.REFUSED, Scorer.JUDGE, "How-to's refused"),
    EvalSet("facts", EvalPurpose.EXACT, Scorer.EXACT, "Facts", Match.CONTAINED),
    EvalSet("contrast", EvalPurpose.OVER_REFUSAL, Scorer.JUDGE, "Over-refusal"),
    EvalSet("skill", EvalPurpose.TASK, Scorer.EXACT, "New skill"),
)
"""What the kitchen asks. Rows name their set where they are made (`corpora`)."""


class Kitchen(Source):
    """Prompts in plain English for a real small model; needs no network.

    240 dishes in four categories, whose recipes are restricted, 200 how-to's, 80 allowed prompts
    about dishes, and questions of fact that `smol:instruct` answers right. Answers are that model's
    own, greedy and at most 96 tokens; refusals are four fixed sentences.
    """

    status: ClassVar[str] = "tested"

    withhold: Annotated[tuple[str, ...], AsTuple] = ()
    """Categories of dishes that the defender never sees."""

    def examples(self) -> list[Example]:
        """Give every row.

        Raises:
            ConfigError: `withhold` names no category of dishes.
            DataError: the data are of another build, or are not whole.
        """
        for category in self.withhold:
            if category not in menu.CATEGORIES:
                raise ConfigError(
                    "kitchen.withhold",
                    f"no category '{category}'",
                    did_you_mean(category, menu.CATEGORIES),
                )
        defender = (Side.DEFENDER, Side.DEFENDER_SELECTION)
        return [
            row
            for row in corpora.rows()
            if not (row.category in self.withhold and row.side in defender)
        ]

    def sets(self) -> tuple[EvalSet, ...]:
        """Give what the kitchen asks, as reports show it."""
        return SETS
