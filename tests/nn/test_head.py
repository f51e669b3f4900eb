"""Models that scale their logits, and text towers inside larger models: what transformers gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from holdfast import evaluate, nn
from holdfast.data.example import Role, Side
from holdfast.data.tokens import IGNORE, Tokens, collate
from holdfast.evaluate.sampler import Sampler
from holdfast.nn.head import logit_scale
from holdfast.nn.states import blocks, body
from holdfast.testing import tiny

TEXT: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
SCALED: dict[str, tuple[str, dict[str, Any], float]] = {
    "cohere": ("Cohere", {"logit_scale": 0.25}, 0.25),
    "cohere2": ("Cohere2", {"logit_scale": 0.0625, "sliding_window": 8}, 0.0625),
    "granite": ("Granite", {"logits_scaling": 5.0, "embedding_multiplier": 3.0}, 0.2),
    "granite, half": ("Granite", {"logits_scaling": 0.5, "residual_multiplier": 0.7}, 2.0),
    "hyperclovax": ("HyperCLOVAX", {"logits_scaling": 5.0}, 5.0),
    "gemma2": ("Gemma2", {"final_logit_softcapping": 3.0}, 1.0),
}


@pytest.fixture(params=SCALED)
def scaled(request: pytest.FixtureRequest) -> tuple[Any, float]:
    name, fields, scale = SCALED[request.param]
    kind = getattr(transformers, f"{name}ForCausalLM", None)
    if kind is None:
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    return kind(getattr(transformers, f"{name}Config")(**TEXT | fields)).eval(), scale


def three() -> Tokens:
    rows = tiny.rows(n=3)
    return tiny.encoder().batch([rows[Role.REFUSAL][0], rows[Role.BENIGN][1]])


def by_hand(model: Any, tokens: Tokens) -> torch.Tensor:
    """Sum the likelihoods of labelled tokens from transformers' own logits, row by row."""
    total = torch.zeros(())
    for row in tokens.rows:
        said = model(torch.tensor([row.ids])).logits[0, :-1].float().log_softmax(-1)
        total = total - said.gather(1, torch.tensor(row.ids)[1:, None])[row.start - 1 :].sum()
    return total


@pytest.mark.parametrize("packed", [False, True])
def test_losses_and_gradients_are_those_of_its_own_logits(
    scaled: tuple[Any, float], packed: bool
) -> None:
    model, scale = scaled
    tokens = three()
    if packed and not nn.packable(model):
        pytest.skip("its attention is not packed")
    assert logit_scale(model) == pytest.approx(scale)
    with nn.packed_passes(packed):
        value, count = nn.nll(model, tokens)
    expected = by_hand(model, tokens)

    assert count == int((tokens.labels != IGNORE).sum())
    torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-5)
    params = list(nn.trainable(model).values())
    found, wanted = (
        torch.autograd.grad(one, params, allow_unused=True) for one in (value, expected)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


def test_likelihoods_logits_and_answers_are_its_own(scaled: tuple[Any, float]) -> None:
    model, _ = scaled
    tokens, encoder = three(), tiny.encoder()
    with torch.no_grad():
        values, _ = nn.log_probs(model, tokens)
        torch.testing.assert_close(-values.sum(), by_hand(model, tokens), atol=1e-4, rtol=1e-5)
        last = nn.forward(model, tokens).last
        logits, _ = nn.generation_logits(model, last, tokens)
        row = tokens.rows[0]
        own = model(torch.tensor([row.ids])).logits[0, row.start - 1 : -1]
    torch.testing.assert_close(logits[: len(own)], own, atol=2e-5, rtol=1e-4)
    asked = [row for some in tiny.rows(Side.EVALUATOR, 2).values() for row in some][:2]
    found = evaluate.generate(model, encoder, asked, Sampler(max_new_tokens=8))
    for one, answer in zip(asked, found, strict=True):
        ids = torch.tensor([encoder.encode(one.prompt, None, one.system).ids])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8
        )[0, ids.shape[1] :]
        assert encoder.tokenizer.decode(out, skip_special_tokens=True).strip() == answer.text


def test_the_bias_of_a_head_is_scaled_too() -> None:
    model = tiny.model("phi")  # its head has one
    model.lm_head.bias.data.normal_()
    tokens = three()
    with torch.no_grad():
        plain = nn.forward(model, tokens).last
        logits, labels = nn.generation_logits(model, plain, tokens)
        model.config.logit_scale = 0.5
        with nn.packed_passes(True):
            value, _ = nn.nll(model, tokens)
    expected = torch.nn.functional.cross_entropy(0.5 * logits, labels, reduction="sum")

    torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-5)


VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip


def seeing(name: str) -> Any:
    """Give a model with a picture's tower as deep as the text's."""
    torch.manual_seed(0)
    if name == "llama4 text":
        return transformers.Llama4ForCausalLM(
            transformers.Llama4TextConfig(**TEXT, num_local_experts=2, intermediate_size_mlp=32)
        )
    if name == "llama4":
        wide = {"projector_input_dim": 16, "projector_output_dim": 16, "vision_output_dim": 16}
        config = transformers.Llama4Config(
            text_config=TEXT | {"num_local_experts": 2, "intermediate_size_mlp": 32},
            vision_config=VISION | wide,
        )
        return transformers.Llama4ForConditionalGeneration(config)
    if name == "gemma3":
        config = transformers.Gemma3Config(
            text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4
        )
        return transformers.Gemma3ForConditionalGeneration(config)
    config = transformers.Mistral3Config(
        text_config={"model_type": "mistral", **TEXT},
        vision_config={"model_type": "pixtral", "head_dim": 4, **VISION},
    )
    return transformers.Mistral3ForConditionalGeneration(config)


@pytest.mark.parametrize("name", ["llama4 text", "llama4", "gemma3", "mistral3"])
def test_the_text_tower_is_found_inside_a_model_that_also_sees(name: str) -> None:
    model = seeing(name).eval()
    tokens = collate(list(three().rows), 0)
    inner = body(model)

    assert not hasattr(inner, "lm_head")
    assert any(module is blocks(model) for module in inner.modules())
    with torch.no_grad():
        states = nn.hidden_states(model, tokens)
        value, _ = nn.nll(model, tokens)
        torch.testing.assert_close(value, by_hand(model, tokens), atol=1e-3, rtol=1e-4)
    assert len(states) == 2
