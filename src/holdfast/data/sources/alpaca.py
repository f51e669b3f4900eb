"""Alpaca: 52,000 instructions with answers that a language model wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer, Told
from holdfast.data.columns import Kind, Record, Text
from holdfast.data.example import Example, Role
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip


class Alpaca(Published):
    """An instruction's input stands under it, after a blank line.

    Its rows are a graded evaluation set besides: a judge that grades answers sees the published
    answer as a good one, which it need not be. The evaluator's are trained on by nobody.

    Its column `text` holds the row in Alpaca's own template and is not read: a model would learn
    that template inside its own.
    """

    place: ClassVar[Place] = Place("tatsu-lab/alpaca")
    commit: ClassVar[str | None] = "dce01c9b08f87459cf36a430d809084718273017"
    columns: ClassVar[dict[str, Kind]] = {"instruction": Text(), "input": Text(), "output": Text()}
    licence: ClassVar[str] = "CC-BY-NC-4.0: not for commercial use"
    size: ClassVar[str] = "52,000 rows, 24 MB"
    lengths: ClassVar[Lengths] = (30, 75, 700)

    def splits(self) -> tuple[Split, ...]:
        """Give its one split, which all sides share."""
        return (Split("train", 52_002),)

    def told(self) -> tuple[Told, ...]:
        """Give a benign row for each instruction."""
        return (Told("benign", self.splits()[0].rows, asked_in=self.name()),)

    def sets(self) -> tuple[EvalSet, ...]:
        """Give the set of its instructions."""
        return (EvalSet(self.name(), EvalPurpose.GRADED, Scorer.GRADER, "Alpaca"),)

    def hashed(self, row: Example) -> Mapping[str, Any]:
        """Give nothing: that its rows can be asked came after results that stand on them."""
        return {}

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the benign row of an instruction."""
        prompt = "\n\n".join(filter(None, (record.text("instruction"), record.text("input"))))
        yield self.row(split, Role.BENIGN, prompt, record.text("output"), asked_in=self.name())
