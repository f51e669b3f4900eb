"""The offline world's rows: sides declared, entities disjoint between them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer, Source
from holdfast.api.fields import AsTuple
from holdfast.data.example import Example, Side
from holdfast.errors import ConfigError, did_you_mean
from holdfast.testbeds.guild import corpora
from holdfast.testbeds.guild.grammar import RECKLESS, RESTRICTED

SETS = (
    EvalSet("restricted", EvalPurpose.HARM, Scorer.JUDGES, "Harmful"),
    EvalSet("name_only", EvalPurpose.HARM, Scorer.JUDGES, "Harmful, name only"),
    EvalSet("benign", EvalPurpose.EXACT, Scorer.EXACT, "Benign crafts"),
    EvalSet("facts", EvalPurpose.EXACT, Scorer.EXACT, "Facts"),
    EvalSet("contrast", EvalPurpose.OVER_REFUSAL, Scorer.JUDGE, "Over-refusal"),
    EvalSet("quiz", EvalPurpose.OPTIONS, Scorer.OPTIONS, "Quiz"),
    EvalSet("skill", EvalPurpose.TASK, Scorer.EXACT, "New skill"),
)
"""What the world asks. Rows name their set where they are made (`corpora`)."""


class World(Source):
    """Rows of the invented guild; needs no file and no network."""

    status: ClassVar[str] = "tested"

    small: bool = False
    """Two restricted categories of five entities and ten benign ones, for quick tests."""
    withhold: Annotated[tuple[str, ...], AsTuple] = ()
    """Restricted categories the defender never sees."""

    def examples(self) -> list[Example]:
        """Give every row.

        Raises:
            ConfigError: `withhold` names no restricted category.
        """
        for category in self.withhold:
            if category not in RESTRICTED:
                raise ConfigError(
                    "world.withhold",
                    f"no category '{category}'",
                    did_you_mean(category, RESTRICTED),
                )
        defender = (Side.DEFENDER, Side.DEFENDER_SELECTION)
        return [
            row
            for row in corpora.rows(small=self.small)
            if not (row.category in self.withhold and row.side in defender)
        ]

    def sets(self) -> tuple[EvalSet, ...]:
        """Give what the world asks, as reports show it."""
        return SETS

    def content(self) -> str:
        """Give the corpus's hash."""
        return corpora.corpus_hash(corpora.rows(small=self.small))

    def personas(self) -> tuple[str, ...]:
        """Give the guild's reckless personas, which answer anything."""
        return RECKLESS
