"""What writes to the residual stream, told by looking at what the blocks add to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import nn
from holdfast.attacks.abliterate import projected_out
from holdfast.attacks.abliterate.writers import added_by_blocks, writers
from holdfast.errors import ModelError
from holdfast.testing import tiny

H = 16
SMALL: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": H,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 4}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 12, "num_experts": 4}
OTHERS: dict[str, dict[str, Any]] = {
    "olmo2": {"num_key_value_heads": 2, "intermediate_size": 24},
    "gemma3_text": {**GROUPED, "sliding_window": 8},
    "glm4": {**GROUPED, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "gpt2": {"n_inner": 24},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": H},
    "gpt_neox": {"intermediate_size": 24},
    "mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**GROUPED, **EXPERTS},
    "qwen2_moe": {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 20},
    "gpt_oss": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "granitemoe": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoeshared": {
        **GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2,
        "shared_intermediate_size": 20, "residual_multiplier": 0.3,
    },
    "granite": {**GROUPED, "residual_multiplier": 0.3},
    "cohere": {**GROUPED},
    "exaone4": {**GROUPED, "sliding_window": None, "layer_types": ["full_attention"] * 3},
}  # fmt: skip
"""Architectures beside those of `tiny`: norms behind the matrices, turned matrices, experts."""


def made(kind: str, seed: int = 0) -> Any:
    """Give a random model in which norms' gains and biases are random too."""
    if kind in tiny.DECODERS:
        model = tiny.model(kind)
    else:
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(seed)
        config = AutoConfig.for_model(kind, **(SMALL | OTHERS[kind]))
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=generator))
    return model


def orthonormal(k: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.linalg.qr(torch.randn(H, k, generator=generator))[0]


def added(model: Any) -> list[Tensor]:
    """Give output less input of every block, with hooks of this test's own."""
    seen: dict[int, list[Tensor]] = {}
    depth = model.config.num_hidden_layers
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    handles = []
    for i, block in enumerate(stacks[0]):

        def before(_m: Any, args: Any, kwargs: Any, i: int = i) -> None:
            seen[i] = [args[0] if args else kwargs["hidden_states"]]

        def after(_m: Any, _a: Any, out: Any, i: int = i) -> None:
            seen[i].append(out[0] if isinstance(out, tuple) else out)

        handles += [
            block.register_forward_pre_hook(before, with_kwargs=True),
            block.register_forward_hook(after),
        ]
    ids = torch.arange(5, 17)[None] * 7 % tiny.VOCABULARY
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return [seen[i][1] - seen[i][0] for i in range(depth)]


def edit(model: Any, r: Tensor, c: float) -> None:
    """Project `r` out of every writer, as the attack does."""
    params = dict(model.named_parameters())
    with torch.no_grad():
        for own in writers(model):
            for writer in own:
                own_r = r
                if writer.gain is not None:
                    own_r = torch.linalg.qr(writer.gain[:, None] * r)[0]
                params[writer.name].copy_(projected_out(writer.tensor, own_r, c, writer.axis))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("kind", [*tiny.DECODERS, *OTHERS])
def test_nothing_is_written_along_what_was_projected_out(kind: str, k: int) -> None:
    model, r = made(kind), orthonormal(k)
    before = [float((one @ r).norm() / one.norm()) for one in added(model)]
    edit(model, r, 1.0)
    after = [float((one @ r).norm() / one.norm()) for one in added(model)]
    assert min(before) > 0.01
    assert max(after) < 2e-6, after


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gpt2", "olmo2", "mixtral", "gpt_oss"])
def test_at_strength_0_every_writer_is_itself_bit_for_bit(kind: str) -> None:
    model = made(kind)
    before = tiny.weights(model)
    edit(model, orthonormal(2), 0.0)
    assert tiny.same(before, tiny.weights(model))


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gpt2", "opt", "mixtral", "granitemoe"])
def test_every_branch_of_every_block_is_found_once(kind: str) -> None:
    for own in writers(made(kind)):
        names = [writer.name for writer in own]
        assert len(names) == len(set(names))
        assert sum(writer.tensor.ndim > 1 for writer in own) == 2
        assert all(writer.tensor.shape[writer.axis] == H for writer in own)


def test_a_norm_before_the_stream_is_told_by_its_gain() -> None:
    """Gemma 2 multiplies by 1 + w, OLMo 2 by w; GLM 4 has four norms, two of them behind."""
    for kind, behind, shift in (
        ("gemma2", ("post_attention_layernorm", "post_feedforward_layernorm"), 1.0),
        ("olmo2", ("post_attention_layernorm", "post_feedforward_layernorm"), 0.0),
        ("glm4", ("post_self_attn_layernorm", "post_mlp_layernorm"), 0.0),
    ):
        model = made(kind)
        block = nn.blocks(model)[1]
        gains = [writer.gain for writer in writers(model)[1] if writer.tensor.ndim > 1]
        for gain, name in zip(gains, behind, strict=True):
            assert gain is not None
            torch.testing.assert_close(gain, getattr(block, name).weight.detach() + shift)
    assert all(w.gain is None for own in writers(made("llama")) for w in own)


def test_what_blocks_add_is_what_the_hooks_of_this_test_see() -> None:
    model, coder = made("llama"), tiny.encoder()
    tokens = coder.prompts(next(iter(tiny.rows().values())), left=False)
    found = added_by_blocks(model, tokens)
    assert [one.shape for one in found] == [(int(tokens.mask.sum()), H)] * 3
    states = nn.hidden_states(model, tokens, final_norm=False)
    real = tokens.mask.bool()
    for deep, shallow, one in zip(states[1:], states, found[1:], strict=False):
        torch.testing.assert_close(one, (deep - shallow)[real])
    assert not any(block._forward_hooks for block in nn.blocks(model))


def test_a_model_whose_writers_are_unknown_is_told() -> None:
    model = made("llama")
    for block in nn.blocks(model):
        block.self_attn.projection_of_its_own = block.self_attn.o_proj
        del block.self_attn.o_proj
    with pytest.raises(ModelError) as caught:
        writers(model)
    assert str(caught.value) == (
        "block 1: 1 matrices found that write to the residual stream; use a decoder-only model "
        "whose attention and MLP end in a linear layer"
    )
