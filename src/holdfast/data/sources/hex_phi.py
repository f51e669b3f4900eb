"""HEx-PHI: 300 harmful instructions, thirty in each of ten categories."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer
from holdfast.data.columns import Kind, Record, Text
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip
from holdfast.data.records import named, read_text, records
from holdfast.errors import DataError

CATEGORIES = {
    1: "illegal_activity",
    3: "hate_violence",
    4: "malware",
    5: "physical_harm",
    6: "economic_harm",
    7: "fraud",
    8: "adult_content",
    9: "political_campaigning",
    10: "privacy",
    11: "financial_advice",
}
"""Its files by number; the second category was withdrawn by its publisher."""


class HexPhi(Published):
    """Its CSV files have no header line: the first line of each is a prompt like any other."""

    place: ClassVar[Place] = Place("LLM-Tuning-Safety/HEx-PHI", gated=True, through="files")
    columns: ClassVar[dict[str, Kind]] = {"prompt": Text()}
    licence: ClassVar[str] = "HEx-PHI's own terms of use"
    size: ClassVar[str] = "300 rows, 40 kB"
    lengths: ClassVar[Lengths] = (30, 0, 150)

    def splits(self) -> tuple[Split, ...]:
        """Give its files, one a category."""
        return tuple(
            Split(f"category_{n}", 30, files=(f"category_{n}.csv",), side=Side.EVALUATOR)
            for n in CATEGORIES
        )

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its one set."""
        return (EvalSet(self.name(), EvalPurpose.HARM, Scorer.JUDGES, "HEx-PHI"),)

    def raw(self, path: Path, split: Split) -> Iterator[tuple[int, dict[str, object]]]:
        """Give each prompt; a CSV file has no header, other kinds name their column."""
        if path.suffix.lower() != ".csv":
            yield from records(path)
            return
        lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
        number = 1
        try:
            for cells in lines:
                if len(cells) > 1:
                    cause = f"expected one cell a line, here are {len(cells)}"
                    raise DataError(f"{path}:{number}", cause, "quote a prompt with a comma in it")
                if number == 1 and cells and named(cells):
                    cause = "begins with a line of column names, the published file does not"
                    raise DataError(f"{path}:{number}", cause, "take that line out")
                if cells:
                    yield number, {"prompt": cells[0]}
                number = lines.line_num + 1
        except csv.Error as error:
            cause = f"not CSV ({error})"
            raise DataError(f"{path}:{number}", cause, "take the published file") from None

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the evaluator's row of a prompt."""
        category = CATEGORIES[int(split.name.rpartition("_")[2])]
        prompt = record.text("prompt")
        yield self.row(split, Role.HARMFUL, prompt, asked_in=self.name(), category=category)
