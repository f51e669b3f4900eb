"""SST-2: sentences of film reviews, positive or negative."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdfast.data.columns import Kind, Record, Text, Whole
from holdfast.data.example import Example, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Answered, Lengths, Skip

LABELS = ("negative", "positive")
QUESTION = "Is this sentence of a film review positive or negative? Answer with one word."
"""How it is asked; ours."""


class SST2(Answered):
    """The evaluator has the validation split: the labels of the test split were never published.

    Rows of label -1, which is what the test split has, are dropped.
    """

    place: ClassVar[Place] = Place("stanfordnlp/sst2")
    commit: ClassVar[str | None] = "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb"
    columns: ClassVar[dict[str, Kind]] = {"sentence": Text(), "label": Whole(-1, 1)}
    licence: ClassVar[str] = "not stated by its publisher"
    size: ClassVar[str] = "68,000 rows, 3 MB"
    lengths: ClassVar[Lengths] = (40, 3, 100)
    label: ClassVar[str] = "SST-2"

    def splits(self) -> tuple[Split, ...]:
        """Give the training and the validation split."""
        return (Split("train", 67_349), Split("validation", 872, side=Side.EVALUATOR))

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the row of a sentence."""
        number, sentence = record.number("label"), record.text("sentence")
        if number < 0:
            yield Skip.UNLABELLED
        elif not sentence:
            yield Skip.EMPTY
        else:
            said = LABELS[number]
            yield self.question(split, f"{QUESTION}\n\n{sentence}", said, said, category=said)
