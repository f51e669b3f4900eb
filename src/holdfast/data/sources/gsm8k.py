"""GSM8K: grade-school word problems with worked solutions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from holdfast.api import Match
from holdfast.data.columns import Kind, Record, Text
from holdfast.data.example import Example, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Answered, Lengths, Skip

MARK = "####"
"""What stands before the final answer in a solution."""
ASK = f"Think step by step, and write the final number after {MARK}."
"""What stands under each question, so that an untrained model can be right too; ours."""


class GSM8K(Answered):
    """The whole solution is trained on; what stands after its last `####` is the known answer.

    An answer is right where its last number is the known one: of what it says after `####`, or of
    all where it has no such mark; thousands separators aside. The
    calculator's marks (`<<1+1=2>>`) are taken out of solutions.
    """

    place: ClassVar[Place] = Place("openai/gsm8k")
    commit: ClassVar[str | None] = "cc7b047b6e5bb11b4f1af84efc572db110a51b3c"
    columns: ClassVar[dict[str, Kind]] = {"question": Text(), "answer": Text()}
    licence: ClassVar[str] = "MIT"
    size: ClassVar[str] = "8,800 rows, 3 MB"
    lengths: ClassVar[Lengths] = (75, 120, 500)
    label: ClassVar[str] = "GSM8K"
    match: ClassVar[Match] = Match.NUMBER

    def splits(self) -> tuple[Split, ...]:
        """Give the training split and the test that its publisher held back."""
        return (
            Split("train", 7_473, config="main"),
            Split("test", 1_319, config="main", side=Side.EVALUATOR),
        )

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the row of a problem."""
        solution = re.sub(r"<<.*?>>", "", record.text("answer"))
        worked, mark, final = solution.rpartition(MARK)
        final = final.strip().replace(",", "")
        if not mark or not final:
            yield Skip.UNLABELLED
            return
        solution = f"{worked.rstrip()}\n{MARK} {final}"
        question = record.text("question")
        if not question:
            yield Skip.EMPTY
            return
        yield self.question(split, f"{question}\n\n{ASK}", solution, final, after=MARK)
