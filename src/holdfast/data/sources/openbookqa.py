"""OpenBookQA: 500 questions of elementary science, each with four options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer, Told
from holdfast.data.columns import Group, Kind, Label, Record, Text, Texts
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip


class OpenBookQA(Published):
    """The question is asked, and each option's words are an answer to choose.

    The likelihood of an option is taken a token, so numbers are near lm-eval's `acc_norm`, not its
    `acc`, which SGT's table has.
    """

    place: ClassVar[Place] = Place("allenai/openbookqa")
    commit: ClassVar[str | None] = "388097ea7776314e93a529163e0fea805b8a6454"
    columns: ClassVar[dict[str, Kind]] = {
        "question_stem": Text(),
        "choices": Group({"text": Texts(), "label": Texts()}),
        "answerKey": Label("A", "B", "C", "D"),
    }
    licence: ClassVar[str] = "Apache-2.0"
    size: ClassVar[str] = "500 rows, 60 kB"
    lengths: ClassVar[Lengths] = (15, 6, 80)

    def splits(self) -> tuple[Split, ...]:
        """Give the test split."""
        return (Split("test", 500, config="main", side=Side.EVALUATOR),)

    def told(self) -> tuple[Told, ...]:
        """Give the test's questions."""
        return (Told("benign", self.splits()[0].rows, "evaluator", self.name(), options=4),)

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its one set."""
        return (EvalSet(self.name(), EvalPurpose.OPTIONS, Scorer.OPTIONS, "OpenBookQA"),)

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the evaluator's row of a question."""
        right, choices = record.label("answerKey"), record.group("choices")
        letters = choices.texts("label")
        if right not in letters or len(letters) != len(choices.texts("text")):
            yield Skip.UNLABELLED
            return
        yield self.row(
            split,
            Role.BENIGN,
            record.text("question_stem"),
            asked_in=self.name(),
            options=choices.texts("text"),
            answer_index=letters.index(right),
        )
