"""Dolly 15k: instructions and answers that people wrote, free for commercial use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdfast.api import Told
from holdfast.data.columns import Kind, Label, Record, Text
from holdfast.data.example import Example, Role
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip

CATEGORIES = (
    *("brainstorming", "classification", "closed_qa", "creative_writing", "general_qa"),
    *("information_extraction", "open_qa", "summarization"),  # spelling: theirs
)
"""What its instructions ask for."""


class Dolly(Published):
    """An instruction's context, where it has one, stands under it, after a blank line."""

    place: ClassVar[Place] = Place("databricks/databricks-dolly-15k")
    commit: ClassVar[str | None] = "bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a"
    columns: ClassVar[dict[str, Kind]] = {
        "instruction": Text(),
        "context": Text(),
        "response": Text(),
        "category": Label(*CATEGORIES),
    }
    licence: ClassVar[str] = "CC-BY-SA-3.0: what is made from it is shared alike"
    size: ClassVar[str] = "15,000 rows, 13 MB"
    lengths: ClassVar[Lengths] = (110, 100, 1500)

    def splits(self) -> tuple[Split, ...]:
        """Give its one split, which all sides share."""
        return (Split("train", 15_011, files=("databricks-dolly-15k.jsonl",)),)

    def told(self) -> tuple[Told, ...]:
        """Give a benign row for each instruction."""
        return (Told("benign", self.splits()[0].rows),)

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the benign row of an instruction."""
        prompt = "\n\n".join(filter(None, (record.text("instruction"), record.text("context"))))
        category = record.label("category") or ""
        yield self.row(split, Role.BENIGN, prompt, record.text("response"), category=category)
