"""Architectures with random weights, from the door to the release: load, train, save, reload.

Dense, mixtures of experts and state-space models, old names and new ones. Plain transformers is the
reference for weights, answers and casts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, conversion_mapping
from transformers.core_model_loading import Transpose, WeightConverter

from holdfast import evaluate, nn, train
from holdfast.api import Loop
from holdfast.attacks.strip import Strip
from holdfast.data.example import Side
from holdfast.data.tokens import Encoder
from holdfast.defences.lox import LoX
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.errors import ModelError
from holdfast.evaluate.sampler import Sampler
from holdfast.testing import tiny

WORDS: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
DENSE: dict[str, Any] = {
    **WORDS,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FOUR: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2}
GPT: dict[str, Any] = {**WORDS, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 256}
SSM: dict[str, Any] = {**WORDS, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
GEMMA: dict[str, Any] = {"head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 8}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": DENSE,
    "mistral": DENSE,
    "qwen2": DENSE,
    "qwen3": DENSE | {"head_dim": 4, "tie_word_embeddings": True},
    "gemma": DENSE | {"head_dim": 4},
    "gemma2": DENSE | GEMMA,
    "gemma3_text": DENSE | GEMMA,
    "phi3": DENSE,
    "olmo2": DENSE,
    "stablelm": DENSE,
    "granite": DENSE,
    "cohere": DENSE,
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 4},
    "gpt_neox": DENSE,
    "opt": DENSE | {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "bloom": {**WORDS, "hidden_size": 16, "n_layer": 2, "n_head": 4},
    "falcon": {**WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4},
    "mixtral": DENSE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": DENSE | FOUR | {"head_dim": 4, "moe_intermediate_size": 16},
    "olmoe": DENSE | FOUR,
    "gpt_oss": DENSE
    | {"head_dim": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "deepseek_v3": DENSE
    | {
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 4,
    },
    "mamba": SSM,
    "mamba2": SSM | {"num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": SSM,
    "jamba": DENSE
    | {
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
    },
}


def random_model(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **ARCHITECTURES[kind]))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.normal_(0, 0.15)
    return model.eval()


def saved(kind: str, folder: Path) -> PreTrainedModel:
    model = random_model(kind)
    nn.save(model, tiny.byte_tokenizer(bos=True), folder)
    return model


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_it_loads_trains_is_saved_reloads_and_serves_as_original(kind: str, tmp_path: Path) -> None:
    public = tiny.weights(saved(kind, tmp_path))
    model, tokenizer = nn.load(nn.resolve(str(tmp_path)))
    assert tiny.same(tiny.weights(model), public)
    original = nn.tensors(tmp_path)
    assert list(original) == list(public)
    assert tiny.same(dict(original), public)

    loop = Loop(steps=2, batch=2, lr=0.01)
    hardened = train.apply(
        RefusalSFT(loop=loop), model, tokenizer, tiny.pool(), format="plain", seed=0
    )
    assert not tiny.same(tiny.weights(hardened), public)
    nn.save(hardened, tokenizer, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert tiny.same(tiny.weights(plain), tiny.weights(hardened))
    encoder = Encoder(tokenizer, "plain")
    rows = [row for some in tiny.rows(Side.EVALUATOR, 1).values() for row in some]
    for row, answer in zip(
        rows, evaluate.generate(hardened, encoder, rows, Sampler(max_new_tokens=6)), strict=True
    ):
        ids = torch.tensor([encoder.encode(row.prompt, None, row.system).ids])
        said = plain.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6
        )[0, ids.shape[1] :]
        assert tokenizer.decode(said, skip_special_tokens=True).strip() == answer.text

    sources = {"original": original}
    pool = tiny.pool()
    train.harden(LoX(rank=1), hardened, encoder, pool, seed=0, sources=sources)
    seen = []
    train.attack(
        Strip(evaluate_at=(1.0,)),
        hardened,
        encoder,
        pool,
        seed=0,
        points=[1.0],
        on_point=lambda *_: seen.append(tiny.same(tiny.weights(hardened), public)),
        sources=sources,
    )
    assert seen == [True]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_cast_to_bf16_it_computes_what_plain_transformers_loads(kind: str, tmp_path: Path) -> None:
    """Casting the whole module rounds RoPE's frequencies too: other positions, other logits."""
    saved(kind, tmp_path)
    ids = torch.tensor([[2, *range(3, 40)]])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    ours, _ = nn.load(tmp_path)
    before = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    nn.cast(ours, torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)
    assert [p.dtype for p in ours.parameters()] == [p.dtype for p in theirs.parameters()]
    for name, buffer in ours.named_buffers():
        assert buffer.dtype is before[name].dtype
        assert torch.equal(buffer, before[name])


# ---- names of other times


def test_experts_in_single_tensors_are_read_joined(tmp_path: Path) -> None:
    """Mixtral's files hold `experts.N.w1`, the model one tensor for all experts."""
    model = saved("mixtral", tmp_path)
    assert any(".experts.3.w1." in name for name in load_file(tmp_path / "model.safetensors"))
    name = "model.layers.1.mlp.experts.gate_up_proj"
    read = nn.tensors(tmp_path)
    assert name in read
    assert "model.layers.1.block_sparse_moe.experts.3.w1.weight" not in read
    assert torch.equal(read[name], dict(model.named_parameters())[name])


def test_a_base_models_names_without_prefix_are_found(tmp_path: Path) -> None:
    """GPT-2 as it was published: `h.0.attn...`, and a mask that is no weight."""
    model = saved("gpt2", tmp_path)
    path = tmp_path / "model.safetensors"
    old = {name.removeprefix("transformer."): one for name, one in load_file(path).items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    save_file(old, path, metadata={"format": "pt"})
    assert tiny.same(dict(nn.tensors(tmp_path)), tiny.weights(model))
    back, _ = nn.load(nn.resolve(str(tmp_path)))
    assert tiny.same(tiny.weights(back), tiny.weights(model))


def test_an_original_is_read_in_the_dtype_of_its_file_and_a_tied_head_is_its_embedding(
    tmp_path: Path,
) -> None:
    model = random_model("qwen3")
    nn.save(model, tiny.byte_tokenizer(), tmp_path, dtype="bf16")
    read = nn.tensors(tmp_path)
    assert {one.dtype for one in read.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in list(read)
    assert torch.equal(read["lm_head.weight"], read["model.embed_tokens.weight"])
    with pytest.raises(KeyError):
        read["nothing"]


def test_an_equal_name_of_another_meaning_is_not_read_raw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one name and one shape in file and model, yet turned by the library when it loads."""
    model = saved("llama", tmp_path)
    name = "model.layers.0.self_attn.q_proj.weight"
    turn = WeightConverter("self_attn.q_proj.weight", "self_attn.q_proj.weight", [Transpose()])
    rules = {**conversion_mapping._build_checkpoint_conversion_mapping(), "llama": [turn]}
    monkeypatch.setattr(conversion_mapping, "_checkpoint_conversion_mapping_cache", rules)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(dict(loaded.named_parameters())[name], tiny.weights(model)[name].T)
    assert tiny.same(dict(nn.tensors(tmp_path)), tiny.weights(loaded))


def test_a_config_that_makes_no_model_is_one_line(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "no_such_kind"}))
    with pytest.raises(ModelError) as caught:
        nn.tensors(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}: the config makes no model (ValueError: The checkpoint you")
    assert said.endswith("; check config.json")


def test_a_config_whose_parts_disagree_says_which(tmp_path: Path) -> None:
    saved("qwen3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    wrong = {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 2}
    (tmp_path / "config.json").write_text(json.dumps(config | wrong))
    with pytest.raises(ModelError) as caught:
        nn.tensors(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: the config makes no model (ValueError: `num_hidden_layers` (3) must be equal "
        "to the number of `layer_types` (2)); check config.json"
    )
