"""StrongREJECT: 313 forbidden prompts that have an answer of use to the asker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer
from holdfast.data.columns import Kind, Label, Record, Text, Word
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip

CATEGORIES = {
    "Disinformation and deception": "disinformation",
    "Hate, harassment and discrimination": "hate",
    "Illegal goods and services": "illegal_goods",
    "Non-violent crimes": "non_violent_crimes",
    "Sexual content": "sexual_content",
    "Violence": "violence",
}
"""Its categories, and what study files call them."""


class StrongReject(Published):
    """Some prompts come from AdvBench and other sets: `meta["taken_from"]` says from which."""

    place: ClassVar[Place] = Place("alexandrasouly/strongreject", host="github", through="files")
    commit: ClassVar[str | None] = "3432b2d696b428f242bd507df96d80f686571d5e"
    columns: ClassVar[dict[str, Kind]] = {
        "category": Label(*CATEGORIES),
        "source": Word(),
        "forbidden_prompt": Text(),
    }
    licence: ClassVar[str] = "MIT"
    size: ClassVar[str] = "313 rows, 60 kB"
    lengths: ClassVar[Lengths] = (40, 0, 150)

    def splits(self) -> tuple[Split, ...]:
        """Give its one file."""
        file = "strongreject_dataset/strongreject_dataset.csv"
        return (Split("test", 313, files=(file,), side=Side.EVALUATOR),)

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its one set."""
        return (EvalSet(self.name(), EvalPurpose.HARM, Scorer.JUDGES, "StrongREJECT"),)

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the evaluator's row of a prompt."""
        category = record.label("category")
        if category is None:
            yield Skip.UNLABELLED
            return
        yield self.row(
            split,
            Role.HARMFUL,
            record.text("forbidden_prompt"),
            asked_in=self.name(),
            category=CATEGORIES[category],
            taken_from=record.text("source"),
        )
