"""MMLU: questions of 57 subjects, each with four options."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.api import Declared, EvalPurpose, EvalSet, Scorer, Told
from holdfast.data.columns import Kind, Record, Text, Texts, Whole, Word
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip, Tables

LETTERS = ("A", "B", "C", "D")


class MMLU(Published):
    """The options stand under the question, the letters are chosen among; the subject is the row's
    category.

    The wording is ours: for a number to hold against published ones, use lm-eval.
    """

    place: ClassVar[Place] = Place("cais/mmlu")
    commit: ClassVar[str | None] = "c30699e8356da336a370243923dbaf21066bb9fe"
    columns: ClassVar[dict[str, Kind]] = {
        "question": Text(),
        "subject": Word(),
        "choices": Texts(),
        "answer": Whole(0, 3),
    }
    licence: ClassVar[str] = "MIT"
    size: ClassVar[str] = "14,000 rows, 4 MB"
    lengths: ClassVar[Lengths] = (110, 2, 1000)

    shots: Annotated[int, Field(ge=0, le=5)] = 0
    """Questions of the same subject, with their answers, that stand before each: the first so many
    of the split `dev`, which has five. Source of the default: SGT's table has 0 and 5."""

    def splits(self) -> tuple[Split, ...]:
        """Give the test split, and `dev` where questions come before each."""
        test = Split("test", 14_042, config="all", side=Side.EVALUATOR)
        shown = Split("dev", 285, config="all", side=Side.EVALUATOR)
        return (test, shown) if self.shots else (test,)

    def told(self) -> tuple[Told, ...]:
        """Give the test's questions."""
        return (Told("benign", self.splits()[0].rows, "evaluator", self.name(), options=4),)

    def declared(self) -> Declared:
        """Give them, each as long as the questions before it make it."""
        found = super().declared()
        return replace(found, prompt=found.prompt * (1 + self.shots))

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its one set."""
        return (EvalSet(self.name(), EvalPurpose.OPTIONS, Scorer.OPTIONS, "MMLU"),)

    def translate(self, split: Split, tables: Tables) -> Iterator[Example | Skip]:
        """Give the evaluator's row of each question of the test."""
        if split.name == "dev":
            return
        before: dict[str, list[str]] = {}
        for record in tables.get("dev", ()):
            shown = before.setdefault(record.text("subject"), [])
            if len(shown) < self.shots:
                shown.append(f"{_asked(record)} {LETTERS[record.number('answer')]}")
        for record in tables[split.name]:
            if not record.text("question"):
                yield Skip.EMPTY
                continue
            subject = record.text("subject")
            yield self.row(
                split,
                Role.BENIGN,
                "\n\n".join([*before.get(subject, []), _asked(record)]),
                asked_in=self.name(),
                category=subject,
                options=LETTERS[: len(record.texts("choices"))],
                answer_index=record.number("answer"),
            )

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Never called: a row hangs on what stands before it."""
        raise NotImplementedError


def _asked(record: Record) -> str:
    """Give a question with its options, up to where the answer begins."""
    options = zip(LETTERS, record.texts("choices"), strict=False)
    lines = [f"{letter}. {option}" for letter, option in options]
    return "\n".join([record.text("question"), *lines, "Answer:"])
