"""LoRA: unchanged at the start, merged at the end, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import LoRA
from holdfast.errors import ConfigError, ModelError
from holdfast.nn.adapter import lora
from holdfast.testing import tiny

FIELD = LoRA(rank=2, alpha=6.0)
IDS = torch.tensor([[5, 9, 33, 60, 7]])


@pytest.fixture(params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.model(request.param)


def clean(model: Any) -> bool:
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return not hooks and not any("lora" in name for name, _ in model.named_parameters())


def fill(params: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for p in params.values():
            p.normal_(0.0, 0.2)


def test_the_model_is_unchanged_at_the_start(model: Any) -> None:
    with torch.no_grad():
        before = model(IDS).logits
        with lora(model, FIELD, 0):
            assert torch.equal(model(IDS).logits, before)
    assert clean(model)


def test_an_untrained_adapter_leaves_every_weight_as_it_was(model: Any) -> None:
    before = tiny.weights(model)
    with lora(model, FIELD, 0):
        pass
    assert tiny.same(tiny.weights(model), before)


def test_the_merged_model_says_what_the_adapted_one_said(model: Any) -> None:
    before = tiny.weights(model)
    with torch.no_grad():
        with lora(model, FIELD, 0) as params:
            fill(params)
            adapted = model(IDS).logits
            kept = {name: p.clone() for name, p in params.items()}
        torch.testing.assert_close(model(IDS).logits, adapted, atol=2e-6, rtol=1e-5)
    assert clean(model)
    after = tiny.weights(model)
    for name in before:
        layer = name.removesuffix(".weight")
        expected = before[name]
        if f"{layer}.lora_a" in kept:
            update = 3.0 * kept[f"{layer}.lora_b"] @ kept[f"{layer}.lora_a"]  # alpha / rank = 3
            expected = before[name] + update
        torch.testing.assert_close(after[name], expected, atol=1e-7, rtol=1e-6)


def test_all_layers_or_attentions_four(model: Any) -> None:
    with lora(model, FIELD, 0) as params:
        found = {name.split(".")[-2] for name in params}
        assert len(params) == 2 * 7 * 3
    assert found == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    with lora(model, FIELD.with_(targets="attention"), 0) as params:
        assert {name.split(".")[-2] for name in params} == {"q_proj", "k_proj", "v_proj", "o_proj"}
        for name, p in params.items():
            assert 2 in p.shape, name


def test_only_the_adapter_is_trained(model: Any) -> None:
    with lora(model, FIELD, 0) as params:
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained == set(params)


@pytest.mark.parametrize("fail", [False, True])
def test_what_was_frozen_stays_frozen(fail: bool) -> None:
    model = tiny.model()
    model.model.embed_tokens.weight.requires_grad_(False)
    model.model.layers[0].self_attn.q_proj.weight.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        with lora(model, FIELD, 0):
            if fail:
                raise RuntimeError("stop")
    except RuntimeError:
        pass
    assert {name: p.requires_grad for name, p in model.named_parameters()} == wanted


def test_an_error_inside_merges_nothing_and_leaves_nothing(model: Any) -> None:
    before = tiny.weights(model)

    def train() -> None:
        with lora(model, FIELD, 0) as params:
            fill(params)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train()
    assert tiny.same(tiny.weights(model), before)
    assert clean(model)


def test_the_seed_decides_the_first_draw_and_torchs_own_generator_is_left_alone() -> None:
    model = tiny.model()
    state = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with lora(model, FIELD, seed) as params:
            drawn.append({name: p.detach().clone() for name, p in params.items()})
    assert tiny.same(drawn[0], drawn[1])
    assert not tiny.same(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), state)
    a = drawn[0]["model.layers.0.self_attn.q_proj.lora_a"]
    assert a.abs().max() <= 16**-0.5
    assert all(not p.any() for name, p in drawn[0].items() if name.endswith("lora_b"))


def test_a_rank_too_large_is_told_and_leaves_nothing() -> None:
    model = tiny.model()
    with (
        pytest.raises(ModelError) as caught,
        lora(model, LoRA(rank=9, targets="attention"), 0),
    ):
        pass
    assert str(caught.value) == (
        "lora.rank: 9 is larger than model.layers.0.self_attn.k_proj (8 x 16); use a smaller rank"
    )
    assert clean(model)
    assert all(p.requires_grad for p in model.parameters())


def test_bf16_weights_get_an_fp32_adapter_and_one_cast() -> None:
    model = tiny.model("llama").to(torch.bfloat16)
    before = tiny.weights(model)
    with lora(model, FIELD, 0) as params:
        fill(params)
        assert all(p.dtype == torch.float32 for p in params.values())
        model(IDS)
        kept = {name: p.detach().clone() for name, p in params.items()}
    layer = "model.layers.1.mlp.up_proj"
    update = 3.0 * kept[f"{layer}.lora_b"] @ kept[f"{layer}.lora_a"]
    merged = (before[f"{layer}.weight"].float() + update).bfloat16()
    torch.testing.assert_close(tiny.weights(model)[f"{layer}.weight"], merged, atol=0.0, rtol=2**-8)


def test_it_reaches_the_last_block_that_is_asked_for_and_no_further(model: Any) -> None:
    with lora(model, FIELD.with_(through=0.67), 0) as params:
        whole = {name.split(".layers.")[1][0] for name in params}
    with lora(model, FIELD.with_(through=1), 0) as params:
        first = {name.split(".layers.")[1][0] for name in params}
    assert (whole, first) == ({"0", "1"}, {"0"})
    assert clean(model)


def test_a_block_beyond_depth_is_told(model: Any) -> None:
    with pytest.raises(ConfigError) as caught, lora(model, FIELD.with_(through=4), 0):
        pass
    assert str(caught.value) == (
        "lora.through: layer 4 is beyond the model's 3 blocks; use 1 to 3, or a fraction of depth "
        "such as 0.5"
    )
    assert clean(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_held_merged_it_is_what_would_be_saved_and_then_what_it_was(model: Any, dtype: Any) -> None:
    nn.cast(model, dtype)
    with lora(model, FIELD, 0) as params:
        fill(params)
        adapted, order = tiny.weights(model), [name for name, _ in model.named_parameters()]
        hooks = [len(module._forward_hooks) for module in model.modules()]
        with nn.merged(model):
            held = tiny.weights(model)
            with torch.no_grad():
                said = model(IDS).logits
            assert not any("lora" in name for name in held)
        assert tiny.same(tiny.weights(model), adapted)
        assert [name for name, _ in model.named_parameters()] == order
        assert [len(module._forward_hooks) for module in model.modules()] == hooks
        assert all(p.requires_grad for p in params.values())
        assert (
            dict(model.named_parameters())["model.layers.0.self_attn.q_proj.lora_a"]
            is (params["model.layers.0.self_attn.q_proj.lora_a"])
        )
    assert tiny.same(tiny.weights(model), held)  # merged for good
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, said)


def test_held_merged_a_plain_model_stays_and_an_error_restores_an_adapted_one(model: Any) -> None:
    before = tiny.weights(model)
    with nn.merged(model):
        assert tiny.same(tiny.weights(model), before)
    with lora(model, FIELD, 0) as params:
        fill(params)
        adapted = tiny.weights(model)
        with pytest.raises(KeyboardInterrupt), nn.merged(model):
            raise KeyboardInterrupt
        assert tiny.same(tiny.weights(model), adapted)
