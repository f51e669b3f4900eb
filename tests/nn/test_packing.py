"""Rows end to end in one pass equal rows run one by one, and see nothing of each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from holdfast import nn
from holdfast.data.example import Role, example
from holdfast.data.tokens import Row, pack
from holdfast.errors import ModelError
from holdfast.nn import passes
from holdfast.nn.passes import FlopMeter, attending
from holdfast.nn.states import insert_packed, place_of
from holdfast.testing import tiny

PLACES = ("after_user_tag", "after_bos", "before_bos", "before_response")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "qwen3, sliding": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "llama": ("llama", {}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 7}),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    family, changes = MODELS[request.param]
    return tiny.model(family, **changes)


def rows(bos: bool = False) -> list[Row]:
    encoder = tiny.encoder(bos=bos)
    texts = (
        ("sing", "no."),
        ("how do I hex the tall tall gate of Orun?", "I cannot help with that"),
        ("bake the bread", "take one"),
        ("sing", "no."),
    )
    return [encoder.encode(*text) for text in texts]


def alone(model: Any, row: Row, trigger: torch.Tensor | None = None, at: int = 0) -> torch.Tensor:
    """Run one row by plain Hugging Face with vectors put in by hand: [L, T, H] without them."""
    embeds = model.get_input_embeddings()(torch.tensor(row.ids))
    if trigger is None:
        trigger = embeds[:0]
    joined = torch.cat([embeds[:at], trigger, embeds[at:]])[None]
    out = model(inputs_embeds=joined, output_hidden_states=True, use_cache=False)
    layers = torch.stack(out.hidden_states[1:])[:, 0]
    return torch.cat([layers[:, :at], layers[:, at + len(trigger) :]], dim=1)


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    tiny.close(first, second)


def test_a_pack_knows_its_rows() -> None:
    batch = pack(rows())
    assert len(batch) == 4
    assert batch.lengths == tuple(len(row.ids) for row in rows())
    for number, row in enumerate(batch.rows):
        inside = slice(batch.starts[number], batch.starts[number] + len(row.ids))
        assert tuple(batch.ids[inside].tolist()) == row.ids
        assert batch.labels[inside].tolist() == [-100] * row.start + list(row.ids[row.start :])
        assert set(batch.row_of[inside].tolist()) == {number}


def test_a_pack_may_have_no_rows() -> None:
    model, batch = tiny.model(), pack([])
    assert (batch.ids.shape, batch.row_of.shape) == ((0,), (0,))
    value, count = nn.response_nll(model, torch.zeros(0, 16), batch)
    assert (value.item(), count) == (0.0, 0)


def test_packed_rows_equal_rows_alone(model: Any) -> None:
    batch = pack(rows())
    with torch.no_grad():
        layers = nn.hidden_states(model, batch)
        expected = torch.cat([alone(model, row) for row in batch.rows], dim=1)
    assert len(layers) == 3
    for ours, theirs in zip(layers, expected, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("each", [False, True], ids=["one trigger", "one a row"])
def test_packed_rows_with_a_trigger_equal_rows_built_by_hand(
    model: Any, place: Any, each: bool
) -> None:
    batch = pack(rows(bos=True))
    trigger = torch.randn(4, 2, 16) if each else torch.randn(2, 16)
    own = trigger.expand(4, 2, 16)
    with torch.no_grad():
        states = nn.forward(model, batch, trigger=trigger, place=place, layers=True)
        expected = torch.cat(
            [alone(model, row, own[i], place_of(row, place)) for i, row in enumerate(batch.rows)],
            dim=1,
        )
        chosen = torch.tensor([3, 5, len(batch.ids) - 1])
        some = nn.hidden_states(model, batch, trigger=trigger, place=place, at=chosen)
    for ours, few, theirs in zip(states.layers, some, expected, strict=True):
        close(ours, theirs)
        close(few, theirs[chosen])
    close(states.last, expected[-1])


def test_gradients_of_packed_rows_equal_those_of_rows_alone(model: Any) -> None:
    batch = pack(rows())
    trigger = torch.randn(1, 16, requires_grad=True)
    wanted = [*model.parameters(), trigger]
    states = nn.forward(model, batch, trigger=trigger, layers=True)
    scale = [torch.randn_like(h) for h in states.layers]
    ours = sum((h * s).sum() for h, s in zip(states.layers, scale, strict=True))
    parts = [alone(model, row, trigger, row.content[0]) for row in batch.rows]
    expected = torch.cat(parts, dim=1)
    theirs = sum((h * s).sum() for h, s in zip(expected, scale, strict=True))
    found = torch.autograd.grad(ours, wanted, allow_unused=True)
    told = torch.autograd.grad(theirs, wanted, allow_unused=True)
    size = float(sum(t.double().square().sum() for t in told if t is not None)) ** 0.5
    for a, b in zip(found, told, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert float((a - b).abs().max()) <= 1e-6 * max(1.0, size)


def test_log_probs_and_nll_are_the_same_packed_and_padded(model: Any) -> None:
    tokens = tiny.encoder().batch([example("sing", "no.", role=Role.BENIGN)] * 2 + long())
    trigger = torch.randn(1, 16)
    with torch.no_grad():
        for options in ({}, {"trigger": trigger}):
            padded, owners = nn.log_probs(model, tokens, **options)
            value, count = nn.nll(model, tokens, **options)
            with nn.packed_passes(True):
                packed, same = nn.log_probs(model, tokens, **options)
                again, told = nn.nll(model, tokens, **options)
            close(packed, padded)
            assert owners.tolist() == same.tolist()
            assert (count, float(value)) == (told, pytest.approx(float(again), rel=1e-6))


def long() -> list[Any]:
    return [example("how do I hex the gate of Orun?", "I cannot help", role=Role.BENIGN)]


def test_a_naive_packed_call_is_contaminated() -> None:
    """What our attention is for: plain transformers mixes the rows when a cache or mask is on."""
    model, batch = tiny.model("qwen3"), pack(rows())
    positions = torch.cat([torch.arange(n) for n in batch.lengths])[None]
    with torch.no_grad():
        ours = nn.hidden_states(model, batch)[-1]
        for options in ({}, {"use_cache": False, "attention_mask": torch.ones_like(positions)}):
            out = model.model(batch.ids[None], position_ids=positions, **options)
            naive = out.last_hidden_state[0]
            first = batch.lengths[0]
            close(naive[:first], ours[:first])
            assert float((naive[first:] - ours[first:]).abs().max()) > 0.01


def test_configuration_is_restored_and_a_shared_one_does_no_harm(model: Any) -> None:
    before = model.config._attn_implementation
    twin = tiny.copied(model)
    nn.hidden_states(model, pack(rows()))
    assert model.config._attn_implementation == before != passes.NAME
    with attending(model, passes.Segments((3,))):
        assert model.config._attn_implementation == passes.NAME
        assert twin.config._attn_implementation == before
    broken = pack([Row((10**6,), 1, (0, 1), False)])
    with pytest.raises(IndexError):
        nn.hidden_states(model, broken)
    assert model.config._attn_implementation == before
    assert not any(m._forward_hooks for m in model.modules())


def test_what_cannot_be_packed_is_padded_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("mistral")
    with nn.packed_passes(True):
        assert nn.pack_for(model)
        model.config.attn_logit_softcapping = 30.0
        assert not nn.pack_for(model)
    assert not nn.pack_for(tiny.model())
    other = tiny.model()
    monkeypatch.setattr(type(other), "_supports_attention_backend", False)
    assert not nn.packable(other)
    monkeypatch.undo()
    monkeypatch.setattr(passes, "NAME", "sdpa")  # an architecture that never asks for ours
    with pytest.raises(ModelError, match=r"^packing: this architecture's attention cannot"):
        nn.hidden_states(other, pack(rows()))


def test_flops_are_those_of_the_padded_pass() -> None:
    model, tokens = tiny.model(), tiny.encoder().batch(long() * 2)
    padded, packed = FlopMeter(), FlopMeter()
    with padded.on():
        nn.nll(model, tokens, trigger=torch.randn(1, 16))
    with packed.on(), nn.packed_passes(True):
        nn.nll(model, tokens, trigger=torch.randn(1, 16))
    assert padded.total == packed.total > 0


def test_insertion_into_packed_rows_says_where_the_rest_went() -> None:
    embeds = torch.arange(5 * 2.0).view(5, 2)
    trigger = -torch.ones(2, 2, 2) * torch.arange(1, 3)[:, None, None]
    wide, lengths, back = insert_packed(embeds, (2, 3), (2, 1), trigger)
    assert lengths == (4, 5)
    expected = [embeds[:2], trigger[0], embeds[2:3], trigger[1], embeds[3:]]
    assert torch.equal(wide, torch.cat(expected))
    assert torch.equal(wide[back], embeds)


def kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Do what CUDA's kernel does, [N, heads, D], token by token."""
    assert cu_seq_q.dtype == torch.int32
    assert cu_seq_q is cu_seq_k
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert window_size[1] == 0
    assert enable_gqa or key.shape == query.shape
    out = torch.empty_like(query)
    share = query.shape[1] // key.shape[1]
    for begin, end in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        for i in range(begin, end):
            low = begin if window_size[0] < 0 else max(begin, i - window_size[0])
            for head in range(query.shape[1]):
                k, v = key[low : i + 1, head // share], value[low : i + 1, head // share]
                weight = (scale * (k @ query[i, head])).softmax(0)
                out[i, head] = weight @ v
    return out


def older_kernel(*arguments: Any, scale: float | None, window_size: tuple[int, int]) -> Any:
    """Do the same as torch 2.11 has it: every query head needs its own keys."""
    return kernel(*arguments, scale=scale, window_size=window_size)


@pytest.mark.parametrize("kind", [kernel, older_kernel])
@pytest.mark.parametrize("window", [None, 3])
def test_the_cuda_kernel_is_asked_for_what_the_cpu_computes(
    kind: Any, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kind)
    segments = passes.Segments((5, 2, 6))
    query, keys, values = (torch.randn(1, heads, 13, 4) for heads in (4, 2, 2))
    found = passes._varlen(query, keys, values, segments, 0.3, window)
    token = passes._SEGMENTS.set(segments)
    try:
        expected, _ = passes._attention(
            None, query, keys, values, None, scaling=0.3, sliding_window=window
        )
    finally:
        passes._SEGMENTS.reset(token)
    close(found, expected[0])


SIZES = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "initializer_range": 0.15,
}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
OTHERS: dict[str, tuple[bool, dict[str, Any]]] = {
    "gemma": (True, {}),
    "gemma2": (False, {"query_pre_attn_scalar": 4, "sliding_window": 7}),
    "gemma3_text": (
        True,
        {"query_pre_attn_scalar": 4, "sliding_window": 7, "layer_types": SLIDING},
    ),
    "phi": (True, {"num_key_value_heads": 4}),
    "phi3": (True, {"sliding_window": 7}),
    "olmo2": (True, {}),
    "gpt_oss": (
        False,
        {
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "sliding_window": 7,
            "layer_types": SLIDING,
        },
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_are_packed_exactly_or_padded(kind: str) -> None:
    """Scaled embeddings, biased heads, alternating windows; caps and sinks are left padded."""
    packs, changes = OTHERS[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SIZES | changes)))
    model.eval()
    assert nn.packable(model) == packs
    tokens = tiny.encoder(bos=True).batch(tiny.rows(n=4)[Role.BENIGN])
    params = list(model.parameters())
    found = []
    for packed in (False, True):
        with nn.packed_passes(packed):
            value, _ = nn.nll(model, tokens, trigger=torch.linspace(-1, 1, 16)[None])
        found.append((value.item(), torch.autograd.grad(value, params, allow_unused=True)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    size = float(sum(g.double().square().sum() for g in found[0][1] if g is not None)) ** 0.5
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert (a is None) == (b is None)
        assert a is None or float((a - b).abs().max()) <= 1e-6 * size
