"""An attacker's choices: told apart by what they are, or refused where they are the same."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.attacks.harmful_sft import HarmfulSFT
from holdfast.errors import ConfigError
from holdfast.study.checks import variants
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan


def choice(**fields: Any) -> HarmfulSFT:
    return HarmfulSFT.model_validate(
        {
            "loop": {"lr": 0.001} | fields.pop("loop", {}),
            "evaluate_at": [8],
        }
        | fields
    )


def told(*choices: HarmfulSFT) -> list[str]:
    return variants(choices, "study.attacks.sft")


def test_those_that_call_themselves_unlike_keep_their_words() -> None:
    made = [choice(), choice(loop={"lr": 0.01}), choice(loop={"lora": {"rank": 4}})]
    assert told(*made) == ["lr=0.001", "lr=0.01", "lr=0.001 lora=4"]


def test_those_alike_are_told_apart_by_the_fields_that_differ() -> None:
    made = [choice(), choice(loop={"batch": 4}), choice(loop={"lr": 0.01, "batch": 4})]
    assert told(*made) == [
        "lr=0.001 batch_size=2",
        "lr=0.001 batch_size=4",
        "lr=0.01",
    ]
    assert told(choice(), choice(distinct=4, loop={"clip": 1.0})) == [
        "lr=0.001 clip=none distinct=none",
        "lr=0.001 clip=1 distinct=4",
    ]
    loras = [
        choice(loop={"lora": {"rank": 4}}),
        choice(loop={"lora": {"rank": 4, "alpha": 2.0}}),
    ]
    assert told(*loras) == ["lr=0.001 lora=4 lora.alpha=16", "lr=0.001 lora=4 lora.alpha=2"]


def test_where_they_are_looked_at_tells_nothing_apart() -> None:
    with pytest.raises(ConfigError) as caught:
        told(choice(), choice(evaluate_at=[16]))
    assert str(caught.value) == (
        "study.attacks.sft[1]: differs from an earlier one in evaluate_at alone, which changes no "
        "result; make one of the two"
    )
    assert told(choice(), choice(evaluate_at=[16], loop={"weight_decay": 0.1})) == [
        "lr=0.001 weight_decay=0.01",
        "lr=0.001 weight_decay=0.1",
    ]
    with pytest.raises(ConfigError) as caught:
        told(choice(), choice())
    assert str(caught.value) == (
        "study.attacks.sft[1]: is 'lr=0.001' like an earlier one; let each differ in name or fields"
    )


def test_rows_and_labels_carry_them(toy: ModuleType, toy_model: Path, installed: Path) -> None:
    two = [{"harmful_sft": {"loop": {"lr": 0.01, "batch": n}, "evaluate_at": [8]}} for n in (2, 4)]
    made = Plan(parse_study(toy.study(toy_model, attacks={"sft": two})))

    assert {track.variant for track in made.tracks} == {
        "lr=0.01 batch_size=2", "lr=0.01 batch_size=4",
    }  # fmt: skip
    labels = {one.label for one in made.trajectories.values() if one.attack is not None}
    assert "attack none: sft lr=0.01 batch_size=4, seed 0" in labels
    assert len(labels) == 4
