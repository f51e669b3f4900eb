"""A defence's diagnostic on models that it made, and on models that another made."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast.api import Loop, LoRA
from holdfast.defences.booster import Booster
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.sgt import SGT
from holdfast.testing import tiny
from holdfast.train import harden, measure

LOOP = Loop(steps=5, batch=3, lr=0.01)
SGT_METHOD = SGT(stage1=LOOP, loop=LOOP)


def hardened(method: Any) -> Any:
    return harden(method, tiny.model(), tiny.encoder(), tiny.pool(), seed=0)


def measured(method: Any, model: Any, **sources: Any) -> dict[str, float]:
    given = {"start": tiny.weights(tiny.model()), **sources}
    return measure(method, model, tiny.encoder(), tiny.pool(), seed=0, sources=given)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_sgt_says_the_same_of_its_own_model_from_what_it_kept(lora: LoRA | None) -> None:
    method = SGT_METHOD.with_(loop=LOOP.with_(lora=lora))
    done = hardened(method)

    assert measured(method, done.model, kept=done.state) == pytest.approx(
        done.diagnostics, abs=1e-6
    )


def test_sgt_is_measured_on_plain_refusal_fine_tuning_with_its_own_trigger() -> None:
    done, plain = hardened(SGT_METHOD), hardened(RefusalSFT(loop=LOOP)).model
    before = tiny.weights(plain)
    found = measured(SGT_METHOD, plain, kept=done.state)

    assert found.keys() == done.diagnostics.keys()
    assert found["anchor_error_before"] == pytest.approx(done.diagnostics["anchor_error_before"])
    assert found[SGT.signal] != pytest.approx(done.diagnostics[SGT.signal])
    assert tiny.same(tiny.weights(plain), before)
    assert measured(SGT_METHOD, plain) == {}


def test_a_defence_that_takes_gradients_leaves_the_model_as_it_was() -> None:
    model = tiny.model().requires_grad_(False)
    before = tiny.weights(model)
    found = measured(Booster(loop=LOOP), model)

    assert found["harm_loss_drop"] > 0
    assert tiny.same(tiny.weights(model), before)
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training


def test_the_model_is_held_in_the_dtype_the_defence_trains_in() -> None:
    model = tiny.model()
    measured(SGT_METHOD.with_(loop=LOOP.with_(precision="bf16_pure")), model)

    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
