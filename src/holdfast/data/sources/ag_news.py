"""AG News: news items to sort into four topics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdfast.data.columns import Kind, Record, Text, Whole
from holdfast.data.example import Example, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Answered, Lengths, Skip

LABELS = ("World", "Sports", "Business", "Technology")
"""Its four topics, in the order of its labels; the last is called `Sci/Tech` there."""
QUESTION = (
    f"Is this news item about {', '.join(LABELS[:-1])} or {LABELS[-1]}? Answer with one word."
)
"""How it is asked; ours."""


class AGNews(Answered):
    """The topic is the answer, in one word."""

    place: ClassVar[Place] = Place("fancyzhx/ag_news")
    commit: ClassVar[str | None] = "eb185aade064a813bc0b7f42de02595523103ca4"
    columns: ClassVar[dict[str, Kind]] = {"text": Text(), "label": Whole(0, 3)}
    licence: ClassVar[str] = "not stated by its publisher; its source allows research alone"
    size: ClassVar[str] = "128,000 rows, 20 MB"
    lengths: ClassVar[Lengths] = (75, 3, 300)
    label: ClassVar[str] = "AG News"

    def splits(self) -> tuple[Split, ...]:
        """Give the training split and the test that its publisher held back."""
        return (Split("train", 120_000), Split("test", 7_600, side=Side.EVALUATOR))

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the row of a news item."""
        said, text = LABELS[record.number("label")], record.text("text")
        if not text:
            yield Skip.EMPTY
            return
        yield self.question(split, f"{QUESTION}\n\n{text}", said, said, category=said.lower())
