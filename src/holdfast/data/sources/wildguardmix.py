"""WildGuardMix: harmful and benign requests, plain and adversarial, with labelled answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer
from holdfast.data.columns import Flag, Kind, Label, Record, Text
from holdfast.data.example import Example, Role, Side
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Restricted, Skip

CATEGORIES = {
    "causing_material_harm_by_disseminating_misinformation": "material_harm",
    "copyright_violations": "copyright",
    "cyberattack": "cyberattack",
    "defamation_encouraging_unethical_or_unsafe_actions": "defamation",
    "disseminating_false_or_misleading_information_encouraging_disinformation_campaigns": (
        "disinformation"
    ),
    "fraud_assisting_illegal_activities": "fraud",
    "mental_health_over-reliance_crisis": "mental_health",
    "others": "other",
    "private_information_individual": "private_information",
    "sensitive_information_organization_government": "sensitive_information",  # spelling: theirs
    "sexual_content": "sexual_content",
    "social_stereotypes_and_unfair_discrimination": "discrimination",
    "toxic_language_hate_speech": "hate_speech",
    "violence_and_physical_harm": "violence",
}
"""Its sub-categories of harmful requests, and what study files call them."""


class WildGuardMix(Restricted):
    """A harmful request is not a harmful answer: both labels decide.

    Harmful rows are harmful requests that were complied with harmfully, refusals are harmful
    requests that were refused, benign rows are benign requests that were answered harmlessly.
    Requests of the training split without an answer give a row only under `refusal`.
    Both sets know the styles `vanilla` and `adversarial`.
    """

    place: ClassVar[Place] = Place("allenai/wildguardmix", gated=True)
    commit: ClassVar[str | None] = "d29c47f41c8b51348b5c8e8c81c039b3132b66d1"
    columns: ClassVar[dict[str, Kind]] = {
        "prompt": Text(),
        "adversarial": Flag(),
        "response": Text(),
        "prompt_harm_label": Label("harmful", "unharmful"),
        "response_refusal_label": Label("refusal", "compliance"),
        "response_harm_label": Label("harmful", "unharmful"),
        "subcategory": Label("benign", *CATEGORIES),
    }
    licence: ClassVar[str] = "ODC-BY, under AI2's guidelines of responsible use"
    size: ClassVar[str] = "87,000 rows, 80 MB"
    lengths: ClassVar[Lengths] = (110, 160, 1800)
    styles: ClassVar[tuple[str, ...]] = ("vanilla", "adversarial")
    answers: ClassVar[dict[str, int]] = {
        "requests": 46_000, "harmful": 9_000, "refusal": 11_000, "benign": 17_000,
        "asked": 754, "asked_benign": 945,
    }  # fmt: skip
    known: ClassVar[tuple[str, ...]] = tuple(CATEGORIES.values())
    label: ClassVar[str] = "WildGuardMix"

    def splits(self) -> tuple[Split, ...]:
        """Give the training split and the test that its publisher held back."""
        train, test = "train/wildguard_train.parquet", "test/wildguard_test.parquet"
        return (
            Split("train", 86_759, config="wildguardtrain", files=(train,)),
            Split("test", 1_725, config="wildguardtest", files=(test,), side=Side.EVALUATOR),
        )

    def sets(self) -> tuple[EvalSet, ...]:
        """Give harmful requests, and benign ones that none should refuse."""
        benign = f"{self.name()}_benign"
        told = EvalSet(benign, EvalPurpose.REFUSED, Scorer.JUDGE, "WildGuardMix, benign")
        return (*super().sets(), told)

    def harmful_answer(self, record: Record) -> bool | None:
        """Say whether the answer was labelled harmful; None where it was not labelled."""
        label = record.label("response_harm_label")
        return None if label is None else label == "harmful"

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give what becomes of one row."""
        prompt, response = record.text("prompt"), record.text("response")
        asked = record.label("prompt_harm_label")
        refused = record.label("response_refusal_label")
        harm = record.label("response_harm_label")
        style = "adversarial" if record.flag("adversarial") else "vanilla"
        if asked is None:
            yield Skip.UNLABELLED
        elif asked == "harmful":
            category = CATEGORIES.get(record.label("subcategory") or "", "other")
            yield from self.harmful(
                split,
                prompt,
                category,
                harm=response if (harm, refused) == ("harmful", "compliance") else None,
                refusal=response if refused == "refusal" and harm != "harmful" else None,
                style=style,
            )
        elif split.side is Side.EVALUATOR:
            benign = f"{self.name()}_benign"
            yield self.row(split, Role.BENIGN, prompt, asked_in=benign, style=style)
        elif response and (refused, harm) == ("compliance", "unharmful"):
            yield self.row(split, Role.BENIGN, prompt, response)
        else:
            yield Skip.UNANSWERED
