"""OR-Bench: prompts that look harmful and are not, and a set of truly harmful ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from holdfast.api import EvalPurpose, EvalSet, Scorer
from holdfast.data.columns import Kind, Record, Text, Word, word
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip

SUBSETS = {
    "hard": ("or-bench-hard-1k", 1_319),
    "80k": ("or-bench-80k", 80_359),
    "toxic": ("or-bench-toxic", 655),
}
"""Its configs and their rows: `hard` has 1,319, whatever its name says."""


class OrBench(Published):
    """`hard` and `80k` (of which `hard` is a part) measure over-refusal, `toxic` measures harm.

    To ask two of them, name the source twice. The set is called after the subset.
    """

    place: ClassVar[Place] = Place("bench-llm/or-bench")
    commit: ClassVar[str | None] = "e36d8b80e81837c8a8f264bbb2a49f1b32c7e272"
    columns: ClassVar[dict[str, Kind]] = {"prompt": Text(), "category": Word()}
    licence: ClassVar[str] = "CC-BY-4.0"
    size: ClassVar[str] = "1,319, 80,000 or 655 rows, up to 12 MB"
    lengths: ClassVar[Lengths] = (25, 0, 80)

    subset: Literal["hard", "80k", "toxic"] = "hard"
    """Which of its three configs; source of the default: its authors' headline."""

    def splits(self) -> tuple[Split, ...]:
        """Give the subset."""
        config, rows = SUBSETS[self.subset]
        return (
            Split(
                "train", rows, config=config, files=(f"{config}.csv",), side=Side.EVALUATOR
            ),
        )  # fmt: skip

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its one set."""
        told = f"OR-Bench, {self.subset}"
        if self.subset == "toxic":
            return (EvalSet(self._set(), EvalPurpose.HARM, Scorer.JUDGES, told),)
        return (EvalSet(self._set(), EvalPurpose.OVER_REFUSAL, Scorer.JUDGE, told),)

    def _set(self) -> str:
        return f"{self.name()}_{self.subset}"

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the evaluator's row of a prompt."""
        role = Role.HARMFUL if self.subset == "toxic" else Role.BENIGN
        prompt, category = record.text("prompt"), word(record.text("category"))
        yield self.row(split, role, prompt, asked_in=self._set(), category=category)
