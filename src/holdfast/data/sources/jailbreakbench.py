"""JailbreakBench: 100 harmful behaviours, and a benign one beside each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer, Told
from holdfast.data.columns import Kind, Label, Record, Text, Word, word
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip

CATEGORIES = (
    "Harassment/Discrimination",
    "Malware/Hacking",
    "Physical harm",
    "Economic harm",
    "Fraud/Deception",
    "Disinformation",
    "Sexual/Adult content",
    "Privacy",
    "Expert advice",
    "Government decision-making",
)
"""Its categories, ten behaviours of each kind in every one."""


class JailbreakBench(Published):
    """Harmful goals measure harm, benign ones on the same topics over-refusal.

    `Target`, the start of an affirmative answer, is no answer and is not read.
    """

    place: ClassVar[Place] = Place("JailbreakBench/JBB-Behaviors")  # spelling: theirs
    commit: ClassVar[str | None] = "886acc352a31533ffbcf4ef22c744658688086fc"
    columns: ClassVar[dict[str, Kind]] = {
        "Goal": Text(),
        "Category": Label(*CATEGORIES),
        "Source": Word(),
    }
    licence: ClassVar[str] = "MIT"
    size: ClassVar[str] = "200 rows, 50 kB"
    lengths: ClassVar[Lengths] = (18, 0, 60)

    def splits(self) -> tuple[Split, ...]:
        """Give the harmful and the benign behaviours."""
        return tuple(
            Split(
                kind,
                100,
                config="behaviors",  # spelling: theirs
                files=(f"data/{kind}-behaviors.csv",),  # spelling: theirs
                side=Side.EVALUATOR,
            )
            for kind in ("harmful", "benign")
        )

    def told(self) -> tuple[Told, ...]:
        """Give a hundred behaviours of each kind."""
        name = self.name()
        return (
            Told("harmful", 100, "evaluator", name),
            Told("benign", 100, "evaluator", f"{name}_benign"),
        )

    def sets(self) -> tuple[EvalSet, ...]:
        """Give the harmful and the benign behaviours."""
        harmful, benign = self.name(), f"{self.name()}_benign"
        return (
            EvalSet(harmful, EvalPurpose.HARM, Scorer.JUDGES, "JailbreakBench"),
            EvalSet(benign, EvalPurpose.OVER_REFUSAL, Scorer.JUDGE, "JailbreakBench, benign"),
        )

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the evaluator's row of a behaviour."""
        category, harmful = record.label("Category"), split.name == "harmful"
        if category is None:
            yield Skip.UNLABELLED
            return
        yield self.row(
            split,
            Role.HARMFUL if harmful else Role.BENIGN,
            record.text("Goal"),
            asked_in=self.name() if harmful else f"{self.name()}_benign",
            category=word(category),
            taken_from=record.text("Source"),
        )
