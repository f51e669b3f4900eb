"""SGT under LoRA: the adapter switched off is the teacher, and nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import Loop, LoRA, Run
from holdfast.data.example import Role
from holdfast.defences.sgt import SGT, SGTState
from holdfast.nn.adapter import lora
from holdfast.nn.passes import without_adapter
from holdfast.testing import tiny
from holdfast.train import harden

IDS = torch.tensor([[5, 9, 33, 60, 7]])
FIELD = LoRA(rank=2, alpha=6.0)
LOOP = Loop(steps=6, batch=3, lr=0.01, checkpoint_every=2)
METHOD = SGT(stage1=LOOP, loop=LOOP.with_(lora=FIELD))


def adapted(params: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for p in params.values():
            p.normal_(0.0, 0.3)


def test_an_adapter_switched_off_is_the_model_before_and_comes_back() -> None:
    model = tiny.model("llama")
    with torch.no_grad():
        before = model(IDS).logits
        with lora(model, FIELD, 0) as params:
            adapted(params)
            after = model(IDS).logits
            with without_adapter(model) as base:
                assert base is model
                assert torch.equal(model(IDS).logits, before)
                with without_adapter(model):
                    pass
                assert torch.equal(model(IDS).logits, before)
            assert torch.equal(model(IDS).logits, after)
            with pytest.raises(KeyboardInterrupt), without_adapter(model):
                raise KeyboardInterrupt
            assert torch.equal(model(IDS).logits, after)
    assert not torch.equal(after, before)


def hardened(method: SGT, family: str) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    model = tiny.model(family)
    done = harden(method, model, tiny.encoder(), tiny.pool(), seed=0)
    return tiny.weights(model), done.diagnostics


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_the_shared_teacher_equals_a_copy(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, found = hardened(METHOD, family)
    setup = SGT.setup

    def copying(self: SGT, run: Run) -> SGTState:
        state = setup(self, run)
        state.teacher = copy.deepcopy(run.model).requires_grad_(False)
        return state

    monkeypatch.setattr(SGT, "setup", copying)
    apart, expected = hardened(METHOD, family)
    for name, value in apart.items():
        torch.testing.assert_close(shared[name], value, atol=1e-6, rtol=1e-6)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found["anchor_error"] != found["anchor_error_before"]


def test_full_fine_tuning_has_a_teacher_of_its_own_and_lora_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: list[Any] = []
    real = copy.deepcopy

    def counting(thing: Any, memo: Any = None) -> Any:
        if isinstance(thing, torch.nn.Module) and memo is None:
            copies.append(thing)
        return real(thing, memo)

    monkeypatch.setattr(copy, "deepcopy", counting)
    hardened(METHOD, "qwen3")
    assert copies == []
    hardened(METHOD.with_(loop=LOOP), "qwen3")
    assert len(copies) == 1


@pytest.mark.usefixtures("passes")
def test_gradient_flows_to_no_teacher_tensor() -> None:
    """Also under LoRA."""
    model, encoder = tiny.model(), tiny.encoder()
    rows = tiny.rows()
    batch = {role: encoder.batch(rows[role]) for role in (Role.REFUSAL, Role.BENIGN)}
    phi = torch.randn(1, 16)
    with lora(model, FIELD, 0) as params:
        adapted(params)
        loss = METHOD.loss(model, batch, SGTState(phi, model, encoder))
        sum(term.weight * term.sum / term.count for term in loss.values()).backward()
        assert all(p.grad is not None for p in params.values())
        inside = {id(p) for p in params.values()}
        assert all(p.grad is None for p in model.parameters() if id(p) not in inside)
        # Had the teacher seen the adapter, its share of the gradient would show here.
        found = {name: p.grad.clone() for name, p in params.items()}
        with without_adapter(model):
            frozen = copy.deepcopy(model).requires_grad_(False)
        for module in frozen.modules():
            module._forward_hooks.clear()
        apart = METHOD.loss(model, batch, SGTState(phi, frozen, encoder))
        expected, _ = nn.grad(params, lambda _: apart, [None])
        for name in params:
            torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-5)


def test_an_interrupted_run_under_lora_ends_at_the_same_bits(tmp_path: Path) -> None:
    class Stop(KeyboardInterrupt):
        """An interruption."""

    def run(folder: Path, at: tuple[str, int] | None) -> dict[str, torch.Tensor]:
        def progress(part: str, done: int, _of: int) -> None:
            if (part, done) == at:
                raise Stop

        model = tiny.model()
        harden(METHOD, model, tiny.encoder(), tiny.pool(), seed=0, work=folder, progress=progress)
        return tiny.weights(model)

    whole = run(tmp_path / "whole", None)
    for stop in (("trigger", 3), ("sgt", 1), ("sgt", 5)):
        with pytest.raises(Stop):
            run(tmp_path / "broken", stop)
    assert tiny.same(run(tmp_path / "broken", None), whole)


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("sharing", ["own", "student"])
def test_micro_batches_change_nothing_with_a_shared_teacher(sharing: Any, packing: bool) -> None:
    """Also under LoRA."""
    after = []
    for size in (None, 2, 1):
        model = tiny.model("llama")
        loop = LOOP.with_(batch=4, lora=FIELD, micro_batch=size, packing=packing)
        method = METHOD.with_(loop=loop, teacher_embeddings=sharing, alpha_align=1.0)
        harden(method, model, tiny.encoder(bos=True), tiny.pool(), seed=0)
        after.append(tiny.weights(model))
    for other in after[1:]:
        for name, value in after[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-5, rtol=1e-4)


@pytest.mark.usefixtures("passes")
def test_a_fresh_adapter_is_at_distance_0_from_its_teacher_without_a_trigger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under LoRA B is 0 at the start, so student and teacher are one."""
    model, encoder, rows = tiny.model(), tiny.encoder(), tiny.rows()
    batch = {role: encoder.batch(rows[role]) for role in (Role.REFUSAL, Role.BENIGN)}
    inner = nn.hidden_states

    def without(*arguments: Any, **options: Any) -> Any:
        return inner(*arguments, **(options | {"trigger": None}))

    monkeypatch.setattr(nn, "hidden_states", without)
    monkeypatch.setattr("holdfast.nn.states.hidden_states", without)
    with lora(model, FIELD, 0) as params:
        terms = METHOD.loss(model, batch, SGTState(torch.randn(1, 16), model, encoder))
        assert float(terms["align"].sum.detach()) == 0.0
        adapted(params)
        terms = METHOD.loss(model, batch, SGTState(torch.randn(1, 16), model, encoder))
        assert float(terms["align"].sum.detach()) > 0.0
