"""XSTest: 250 safe prompts that look unsafe, and 200 unsafe ones beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer, Told
from holdfast.data.columns import Kind, Label, Record, Text
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip

UNSAFE = "contrast_"
"""How the type of an unsafe prompt begins. Copies of the set without `label` have it too."""

TYPES = (
    *("homonyms", "figurative_language", "safe_targets", "safe_contexts", "definitions"),
    *("real_group_nons_discr", "nons_group_real_discr", "historical_events"),
    *("privacy_public", "privacy_fictional"),
    *(f"{UNSAFE}{one}" for one in ("homonyms", "figurative_language", "safe_targets")),
    *(f"{UNSAFE}{one}" for one in ("safe_contexts", "definitions", "discr")),
    *(f"{UNSAFE}{one}" for one in ("historical_events", "privacy")),
)
"""Its types of prompts."""


class XSTest(Published):
    """Safe prompts measure over-refusal (`xstest`), unsafe ones harm (`xstest_unsafe`)."""

    place: ClassVar[Place] = Place("paul-rottger/xstest", host="github", through="files")
    commit: ClassVar[str | None] = "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"
    columns: ClassVar[dict[str, Kind]] = {"prompt": Text(), "type": Label(*TYPES)}
    licence: ClassVar[str] = "CC-BY-4.0"
    size: ClassVar[str] = "450 rows, 40 kB"
    lengths: ClassVar[Lengths] = (12, 0, 40)

    def splits(self) -> tuple[Split, ...]:
        """Give its one file."""
        return (Split("test", 450, files=("xstest_prompts.csv",), side=Side.EVALUATOR),)

    def told(self) -> tuple[Told, ...]:
        """Give 250 safe prompts and 200 unsafe ones."""
        name = self.name()
        return (
            Told("benign", 250, "evaluator", name),
            Told("harmful", 200, "evaluator", f"{name}_unsafe"),
        )

    def sets(self) -> tuple[EvalSet, ...]:
        """Give the safe and the unsafe prompts."""
        safe, unsafe = self.name(), f"{self.name()}_unsafe"
        return (
            EvalSet(safe, EvalPurpose.OVER_REFUSAL, Scorer.JUDGE, "XSTest"),
            EvalSet(unsafe, EvalPurpose.HARM, Scorer.JUDGES, "XSTest, unsafe"),
        )

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give the evaluator's row of a prompt."""
        kind, prompt = record.label("type"), record.text("prompt")
        if kind is None:
            yield Skip.UNLABELLED
            return
        unsafe = kind.startswith(UNSAFE)
        yield self.row(
            split,
            Role.HARMFUL if unsafe else Role.BENIGN,
            prompt,
            asked_in=f"{self.name()}_unsafe" if unsafe else self.name(),
            category=kind.removeprefix(UNSAFE),
        )
