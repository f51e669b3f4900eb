"""HarmBench: 400 harmful behaviours in three kinds, of which one must be named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import model_validator

from holdfast.api import EvalPurpose, EvalSet, Scorer, Told
from holdfast.data.columns import Kind, Label, Record, Text, Word
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip
from holdfast.errors import ConfigError

SUBSETS = ("standard", "contextual", "copyright")


class HarmBench(Published):
    """A number on "HarmBench" says nothing without its subset, so a set is called after it.

    `standard` (200), `contextual` (100, each after the text it is about) or `copyright` (100, which
    needs a judge that compares with the protected text).
    """

    place: ClassVar[Place] = Place("centerforaisafety/HarmBench", host="github", through="files")
    commit: ClassVar[str | None] = "8e1604d1171fe8a48d8febecd22f600e462bdcdd"
    columns: ClassVar[dict[str, Kind]] = {
        "Behavior": Text(),  # spelling: theirs
        "FunctionalCategory": Label(*SUBSETS),
        "SemanticCategory": Word(),
        "ContextString": Text(),
    }
    licence: ClassVar[str] = "MIT"
    size: ClassVar[str] = "400 rows, 300 kB"
    lengths: ClassVar[Lengths] = (60, 0, 600)

    subset: Literal["standard", "contextual", "copyright"] | None = None
    """Which of the three kinds; it must be named."""

    @model_validator(mode="after")
    def _named(self) -> HarmBench:
        if self.subset is None:
            cause = "HarmBench is three sets, and none is named"
            raise ConfigError("subset", cause, f"write one of {', '.join(SUBSETS)}")
        return self

    def splits(self) -> tuple[Split, ...]:
        """Give its one file."""
        file = "data/behavior_datasets/harmbench_behaviors_text_all.csv"  # spelling: theirs
        return (Split("test", 400, files=(file,), side=Side.EVALUATOR),)

    def told(self) -> tuple[Told, ...]:
        """Give the behaviours of the subset: half of all are standard."""
        rows = 200 if self.subset == "standard" else 100
        return (Told("harmful", rows, "evaluator", self._set()),)

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its one set, called after the subset."""
        told = f"HarmBench, {self.subset}"
        return (EvalSet(self._set(), EvalPurpose.HARM, Scorer.JUDGES, told),)

    def _set(self) -> str:
        return f"{self.name()}_{self.subset}"

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the evaluator's row of a behaviour of the subset."""
        if record.label("FunctionalCategory") != self.subset:
            yield Skip.CATEGORY
            return
        prompt, context = record.text("Behavior"), record.text("ContextString")  # spelling: theirs
        if context and prompt:
            prompt = f"{context}\n\n---\n\n{prompt}"
        category = record.text("SemanticCategory")
        yield self.row(split, Role.HARMFUL, prompt, asked_in=self._set(), category=category)
