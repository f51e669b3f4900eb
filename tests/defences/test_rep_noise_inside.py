"""What a pass does inside, on every architecture: MLP outputs, block outputs, the final norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import nn
from holdfast.api import LoRA
from holdfast.data.example import Role
from holdfast.data.tokens import pack
from holdfast.defences.rep_noise.inside import inside, mlp_of
from holdfast.errors import ModelError
from holdfast.nn import head as heads
from holdfast.nn.adapter import lora
from holdfast.nn.passes import Passes
from holdfast.testing import tiny


def batch() -> Any:
    return tiny.encoder().batch(tiny.rows(n=3)[Role.HARMFUL])


def seen(
    model: Any, tokens: Any, **options: Any
) -> tuple[dict[int, tuple[Tensor, Tensor]], Tensor]:
    found: dict[int, tuple[Tensor, Tensor]] = {}
    last = inside(model, tokens, lambda i, a, h: found.update({i: (a, h)}), **options)
    return found, last


def hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", tiny.DECODERS)
def test_each_block_shows_its_mlp_and_itself(family: str) -> None:
    model, tokens = tiny.model(family), batch()
    caught: list[Tensor] = []
    handles = [
        block.mlp.register_forward_hook(lambda _m, _i, out: caught.append(out))
        for block in model.model.layers
    ]
    with torch.no_grad():
        truth = model(tokens.ids, attention_mask=tokens.mask, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    before = hooks(model)  # Hugging Face leaves some of its own
    with torch.no_grad():
        found, last = seen(model, tokens, embeddings=True)
    assert hooks(model) == before
    keep = tokens.mask.flatten().bool()
    states = [h.flatten(0, 1)[keep] for h in truth.hidden_states]
    assert set(found) == {-1, 0, 1, 2}
    for i in range(3):
        torch.testing.assert_close(found[i][0][keep], caught[i].flatten(0, 1)[keep])
    for i in range(-1, 2):
        torch.testing.assert_close(found[i][1][keep], states[i + 1])
    torch.testing.assert_close(last[keep], states[-1])
    torch.testing.assert_close(nn.final_norm(model)(found[2][1])[keep], states[-1])


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "gemma", "phi", "phi3"])
def test_packed_and_padded_passes_show_the_same(family: str) -> None:
    model, tokens = tiny.model(family), batch()
    packed = pack(tokens.rows)
    with torch.no_grad():
        wide, last = seen(model, tokens, embeddings=True)
        flat, short = seen(model, packed, embeddings=True)
    keep = tokens.mask.flatten().bool()
    torch.testing.assert_close(short, last[keep], atol=1e-5, rtol=1e-5)
    for i, pair in wide.items():
        for ours, theirs in zip(flat[i], pair, strict=True):
            torch.testing.assert_close(ours, theirs[keep], atol=1e-5, rtol=1e-5)


def test_blocks_that_are_run_again_give_the_same_gradients() -> None:
    model, packed = tiny.model("llama"), pack(batch().rows)
    found = []
    for again in (False, True):
        with Passes(packed=True, checkpointed=again).on():
            parts, last = seen(model, packed)
            value = last.square().sum() + sum(a.square().sum() + h.sum() for a, h in parts.values())
            found.append(torch.autograd.grad(value, list(model.parameters()), allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


def test_an_adapters_part_is_seen() -> None:
    model, tokens = tiny.model(), batch()
    with lora(model, LoRA(rank=2), 0) as params, torch.no_grad():
        for name, p in params.items():
            if "mlp.down_proj.lora_b" in name:
                p.fill_(0.3)
        with_it = seen(model, tokens)[0][0][0]
        with nn.without_adapter(model):
            without = seen(model, tokens)[0][0][0]
    assert not torch.allclose(with_it, without)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "phi"])
def test_the_heads_loss_is_torchs_own_in_chunks_or_not(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Phi's head has a bias, Gemma 2's logits a cap, Qwen3's head is the embeddings."""
    model = tiny.model(family)
    torch.manual_seed(0)
    states = torch.randn(9, 16, requires_grad=True)
    labels = torch.randint(0, tiny.VOCABULARY, (9,))
    head = model.get_output_embeddings()
    logits = head(states)
    cap = model.config.final_logit_softcapping if family == "gemma2" else None
    if cap:
        logits = cap * torch.tanh(logits / cap)
    value = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    expected = torch.autograd.grad(value, [states, head.weight])
    monkeypatch.setattr(heads, "CHUNK", {"cpu": 4 * tiny.VOCABULARY * 2})
    for hooked in (False, True):
        handle = head.register_forward_hook(lambda *_: None) if hooked else None
        ours = nn.head_nll(model, states, labels)
        if handle is not None:
            handle.remove()
        assert ours.item() == pytest.approx(value.item(), rel=1e-6)
        for a, b in zip(torch.autograd.grad(ours, [states, head.weight]), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_what_has_no_such_insides_is_told() -> None:
    model = tiny.model()
    with pytest.raises(ModelError) as caught:
        mlp_of(model.model.layers[0].self_attn.q_proj)
    assert str(caught.value) == "Linear: 0 MLPs in a block; use a dense decoder-only model"
    with Passes(compiled=True).on(), pytest.raises(ModelError) as caught:
        seen(model, batch())
    assert str(caught.value) == (
        "passes: compiled blocks hide their insides; leave compile_layers off"
    )
    model.model.norm = torch.nn.Identity()
    with pytest.raises(ModelError) as caught:
        nn.final_norm(model)
    assert str(caught.value) == ("model: no final norm; use a decoder-only model that has one")
