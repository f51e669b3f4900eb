"""Aegis 2.0: requests and answers labelled by people, with refusals added to its training rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer
from holdfast.data.columns import Kind, Label, Record, Text, UnfitError, word
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Restricted, Skip

CATEGORIES = (
    "Controlled/Regulated Substances",
    "Copyright/Trademark/Plagiarism",
    "Criminal Planning/Confessions",
    "Fraud/Deception",
    "Guns and Illegal Weapons",
    "Harassment",
    "Hate/Identity Hate",
    "High Risk Gov Decision Making",
    "Illegal Activity",
    "Immoral/Unethical",
    "Malware",
    "Manipulation",
    "Needs Caution",
    "Other",
    "PII/Privacy",
    "Political/Misinformation/Conspiracy",
    "Profanity",
    "Sexual",
    "Sexual (minor)",
    "Suicide and Self Harm",
    "Threat",
    "Unauthorized Advice",  # spelling: theirs
    "Violence",
)
"""Its categories, as its rows name them."""

REFUSALS = "refusal_data_augmentation"
"""What `response_label_source` says of the refusals that were added."""


class Violated:
    """Categories between commas, most named first; none for a safe row."""

    def read(self, value: object) -> tuple[str, ...]:
        """Give them in the words of study files.

        Raises:
            UnfitError: one that is none of them.
        """
        named = [one.strip() for one in Text().read(value).split(",") if one.strip()]
        known = {word(one) for one in (*CATEGORIES, "Safe")}
        found = tuple(word(one) for one in named)
        if not known.issuperset(found):
            raise UnfitError(f"has another category than {', '.join(CATEGORIES)}")
        return tuple(one for one in found if one != "safe")


class Aegis2(Restricted):
    """Unsafe requests with unsafe answers, the refusals that were added, and safe pairs.

    A safe answer to an unsafe request need not be a refusal: of these only the added refusals are
    read. Requests that say `REDACTED`, whose text its publisher may not share, are dropped. Of
    several categories the one most named is the row's.
    """

    place: ClassVar[Place] = Place("nvidia/Aegis-AI-Content-Safety-Dataset-2.0")
    commit: ClassVar[str | None] = "d86bb8bedff51d25ac834ab7838f1cc61acb7a2c"
    columns: ClassVar[dict[str, Kind]] = {
        "prompt": Text(),
        "response": Text(),
        "prompt_label": Label("safe", "unsafe"),
        "response_label": Label("safe", "unsafe"),
        "violated_categories": Violated(),
        "response_label_source": Label("human", "llm_jury", REFUSALS),
    }
    licence: ClassVar[str] = "CC-BY-4.0"
    size: ClassVar[str] = "33,000 rows, 40 MB"
    lengths: ClassVar[Lengths] = (60, 120, 1500)
    answers: ClassVar[dict[str, int]] = {
        "requests": 15_000, "harmful": 7_500, "refusal": 5_000, "benign": 6_500,
        "asked": 900, "asked_benign": 800,
    }  # fmt: skip
    known: ClassVar[tuple[str, ...]] = tuple(word(one) for one in CATEGORIES)
    label: ClassVar[str] = "Aegis 2.0"

    def splits(self) -> tuple[Split, ...]:
        """Give its three splits; the training and validation ones have refusals beside them."""
        train, validation = ("train.json", "refusals_train.json"), "refusals_validation.json"
        return (
            Split("train", 30_007, files=train),
            Split("validation", 1_445, files=("validation.json", validation)),
            Split("test", 1_964, files=("test.json",), side=Side.EVALUATOR),
        )

    def sets(self) -> tuple[EvalSet, ...]:
        """Give unsafe requests, and safe ones that none should refuse."""
        benign = f"{self.name()}_benign"
        told = EvalSet(benign, EvalPurpose.REFUSED, Scorer.JUDGE, "Aegis 2.0, benign")
        return (*super().sets(), told)

    def harmful_answer(self, record: Record) -> bool | None:
        """Say whether the answer was labelled unsafe; None for none, or a request left out."""
        label = record.label("response_label")
        return None if label is None or record.text("prompt") == "REDACTED" else label == "unsafe"

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give what becomes of one row."""
        prompt, response = record.text("prompt"), record.text("response")
        asked, answered = record.label("prompt_label"), record.label("response_label")
        if prompt == "REDACTED":
            yield Skip.REDACTED
        elif asked is None:
            yield Skip.UNLABELLED
        elif asked == "unsafe":
            categories = record.texts("violated_categories")
            added = record.label("response_label_source") == REFUSALS
            inside = [one for one in categories if one in self.categories] or categories
            yield from self.harmful(
                split,
                prompt,
                inside[0] if inside else "other",
                harm=response if response and answered == "unsafe" else None,
                refusal=response if response and answered == "safe" and added else None,
                categories=list(categories),
            )
        elif split.side is Side.EVALUATOR:
            yield self.row(split, Role.BENIGN, prompt, asked_in=f"{self.name()}_benign")
        elif response and answered == "safe":
            yield self.row(split, Role.BENIGN, prompt, response)
        else:
            yield Skip.UNANSWERED
