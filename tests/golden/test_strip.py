"""Interpolation towards the public original, whatever its files call their tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast import nn
from holdfast.api import Run
from holdfast.attacks.strip import Strip
from holdfast.errors import ModelError
from holdfast.testing import tiny
from holdfast.train import attack


def moved(model: Any) -> Any:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def test_it_goes_the_share_of_the_way_worked_by_hand() -> None:
    sources = {"start": {"w": torch.tensor([1.0, 4.0])}, "original": {"w": torch.tensor([5.0, 0])}}
    run = Run(None, None, None, 0, models=sources)
    for t, expected in ((0.25, [2.0, 3.0]), (0.5, [3.0, 2.0]), (1.0, [5.0, 0.0])):
        assert torch.equal(Strip().edit(run, t, None)["w"], torch.tensor(expected))


@pytest.mark.parametrize("fails", [False, True])
def test_each_budget_starts_from_the_release_and_the_weights_come_back(fails: bool) -> None:
    """The second budget must not see the first one's edit."""
    model = tiny.model("llama")
    original = tiny.weights(model)
    start = tiny.weights(moved(model))
    found: dict[float, Any] = {}

    def look(t: float, info: Any) -> None:
        found[t] = tiny.weights(model)
        assert (info.steps, info.flops) == (0, 0)
        if fails and t == 0.5:
            raise KeyboardInterrupt

    def go() -> None:
        attack(
            Strip(), model, tiny.encoder(), tiny.pool(), seed=0, points=[0.25, 0.5, 1.0],
            on_point=look, sources={"original": original},
        )  # fmt: skip

    if fails:
        with pytest.raises(KeyboardInterrupt):
            go()
    else:
        go()
        assert tiny.same(found[1.0], original)
    for t, weights in found.items():
        for name, tensor in weights.items():
            expected = (
                original[name] if t == 1 else start[name] + t * (original[name] - start[name])
            )
            assert torch.equal(tensor, expected), (t, name)
    assert tiny.same(tiny.weights(model), start)
    assert all(p.requires_grad for p in model.parameters())


def test_what_did_not_ask_for_a_gradient_does_not_ask_afterwards() -> None:
    model = tiny.model("llama")
    frozen = model.model.layers[0].mlp.down_proj.weight.requires_grad_(False)
    original = tiny.weights(model)
    attack(
        Strip(), model, tiny.encoder(), tiny.pool(), seed=0, points=[1.0],
        on_point=lambda *_: None, sources={"original": original},
    )  # fmt: skip
    wanted = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert wanted == {name for name, p in model.named_parameters() if p is frozen}


def renamed(folder: Path, old: str, new: str) -> Path:
    """Write a checkpoint's tensors under other names, as older files have them."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_an_original_whose_files_name_tensors_otherwise_is_read_as_the_library_reads_it(
    tmp_path: Path,
) -> None:
    """GPT-2's files on the hub lack the prefix `transformer.` of the loaded model's names."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=tiny.VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64,
        bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    nn.save(model, tiny.byte_tokenizer(), tmp_path)
    original = tiny.weights(model)
    renamed(tmp_path, "transformer.", "")
    files = nn.tensors(tmp_path)
    assert "h.0.attn.c_proj.weight" not in files  # by the model's names alone
    assert "transformer.h.0.attn.c_proj.weight" in files
    assert "transformer.h.7.attn.c_proj.weight" not in files
    start = tiny.weights(moved(model))
    run = Run(model, None, None, 0, models={"start": start, "original": files}, where="strip")
    assert tiny.same(Strip().edit(run, 1.0, None), original)


def test_experts_that_the_library_stacks_are_read_stacked(tmp_path: Path) -> None:
    """Mixtral's files hold each expert by itself; the loaded model holds them in one tensor."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "mixtral", vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=24,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=4,
        num_local_experts=3, num_experts_per_tok=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    nn.save(model, tiny.byte_tokenizer(), tmp_path)
    original = tiny.weights(model)
    files = nn.tensors(tmp_path)
    stacked = [name for name, p in model.named_parameters() if p.ndim == 3]
    assert stacked
    assert set(stacked) <= set(iter(files))
    assert not set(stacked) & set(load_file(tmp_path / "model.safetensors"))
    start = tiny.weights(moved(model))
    run = Run(model, None, None, 0, models={"start": start, "original": files}, where="strip")
    assert tiny.same(Strip().edit(run, 1.0, None), original)


def test_a_tensor_the_original_lacks_is_told(tmp_path: Path) -> None:
    model = tiny.model("llama")
    nn.save(model, tiny.byte_tokenizer(), tmp_path)
    start = tiny.weights(model) | {"model.extra.weight": torch.zeros(2, 2)}
    sources = {"start": start, "original": nn.tensors(tmp_path)}
    with pytest.raises(ModelError) as caught:
        Strip().edit(Run(model, None, None, 0, models=sources, where="strip"), 1.0, None)
    assert str(caught.value) == (
        "strip: the original has no 'model.extra.weight' of this shape; name its own base"
    )
