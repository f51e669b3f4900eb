"""BeaverTails: requests with several answers each, every pair labelled safe or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

from holdfast.api import Told
from holdfast.data.columns import Flag, Group, Kind, Record, Text
from holdfast.data.example import Example, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Restricted, Skip

CATEGORIES = {
    "animal_abuse": "animal_abuse",
    "child_abuse": "child_abuse",
    "controversial_topics,politics": "politics",
    "discrimination,stereotype,injustice": "discrimination",
    "drug_abuse,weapons,banned_substance": "drugs_weapons",
    "financial_crime,property_crime,theft": "financial_crime",
    "hate_speech,offensive_language": "hate_speech",
    "misinformation_regarding_ethics,laws_and_safety": "misinformation",
    "non_violent_unethical_behavior": "unethical",  # spelling: theirs
    "privacy_violation": "privacy",
    "self_harm": "self_harm",
    "sexually_explicit,adult_content": "sexual_content",
    "terrorism,organized_crime": "terrorism",  # spelling: theirs
    "violence,aiding_and_abetting,incitement": "violence",
}
"""Its fourteen categories, commas in their names, and what study files call them."""

ROWS = {"30k": (27_186, 3_021), "330k": (300_567, 33_396)}
"""Published rows of the training and the test split."""

REQUESTS = {"30k": 7_774, "330k": 16_851}
"""Distinct requests in both splits; source: Ji et al. 2023."""


class BeaverTails(Restricted):
    """`is_safe` labels the pair, not the request: unsafe answers are the harmful rows.

    A safe answer is often an explanation and no refusal, and a request with safe answers alone may
    be benign: both are dropped. Refusals come from the field `refusal`. A pair of several
    categories has the first of them as its category, and all of them in `meta["categories"]`.
    """

    place: ClassVar[Place] = Place("PKU-Alignment/BeaverTails")
    commit: ClassVar[str | None] = "8401fe609d288129cc684a9b3be6a93e41cfe678"
    columns: ClassVar[dict[str, Kind]] = {
        "prompt": Text(),
        "response": Text(),
        "category": Group({name: Flag() for name in CATEGORIES}),
        "is_safe": Flag(),
    }
    licence: ClassVar[str] = "CC-BY-NC-4.0: not for commercial use, weights trained on it included"
    size: ClassVar[str] = "364,000 rows, 100 MB; 30,000 of them are read by default"
    lengths: ClassVar[Lengths] = (20, 90, 400)
    known: ClassVar[tuple[str, ...]] = tuple(CATEGORIES.values())
    label: ClassVar[str] = "BeaverTails"

    subset: Literal["30k", "330k"] = "30k"
    """Which of its two sizes; source of the default: the one that published attacks train on."""

    def told(self) -> tuple[Told, ...]:
        """Give requests with an unsafe answer: 7,774 and 16,851 distinct requests were published,
        nearly all of which have one; a tenth is taken to be the test's.
        """
        published = REQUESTS[self.subset]
        train, test = published * 9 // 10, published // 10
        given, name = self.categories or self.known, self.name()
        share, paired = len(given) / len(self.known), self.refusal is not None
        about: dict[str, Any] = {"asked_in": name, "categories": given, "guess": True}
        some = Told("harmful", round(train * share), paired=paired, **about)
        asked = Told("harmful", round(test * share), "evaluator", **about)
        return (some, replace(some, role="refusal"), asked) if paired else (some, asked)

    def splits(self) -> tuple[Split, ...]:
        """Give the training split and the test that its publisher held back."""
        train, test = ROWS[self.subset]
        return (
            Split("train", train, split=f"{self.subset}_train"),
            Split("test", test, split=f"{self.subset}_test", side=Side.EVALUATOR),
        )

    def harmful_answer(self, record: Record) -> bool | None:
        """Say whether the pair was labelled unsafe."""
        return not record.flag("is_safe")

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give what becomes of one pair."""
        if record.flag("is_safe"):
            yield Skip.UNANSWERED
            return
        group = record.group("category")
        found = [word for name, word in CATEGORIES.items() if group.flag(name)]
        if not found:
            yield Skip.UNLABELLED
            return
        inside = [word for word in found if word in self.categories] or found
        prompt, response = record.text("prompt"), record.text("response")
        yield from self.harmful(split, prompt, inside[0], harm=response, categories=found)
