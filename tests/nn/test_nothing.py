"""A batch without rows, as a mixed micro-batch gives for a role that it lacks: everything is 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.data.tokens import pack
from holdfast.defences.rep_noise.inside import inside
from holdfast.defences.seam import depth_nll
from holdfast.defences.tar.entropy import next_entropy
from holdfast.nn.vectors import total
from holdfast.testing import tiny

SUMS: dict[str, Any] = {"nll": nn.nll, "depth_nll": depth_nll, "next_entropy": next_entropy}

WAYS = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])


def nothing() -> Any:
    return tiny.encoder().batch([])


@WAYS
@pytest.mark.parametrize("name", ["nll", "depth_nll", "next_entropy", "next_entropy everywhere"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_a_sum_over_no_rows_is_0_of_0(name: str, packed: bool, family: str) -> None:
    model, meter = tiny.model(family), nn.FlopMeter()
    word, _, everywhere = name.partition(" ")
    how = {"everywhere": True} if everywhere else {}
    with nn.packed_passes(packed), meter.on():
        value, count = SUMS[word](model, nothing(), **how)
    assert (float(value.detach()), count, meter.total) == (0.0, 0, 0.0)
    assert value.shape == ()


@WAYS
def test_with_a_trigger_too(packed: bool) -> None:
    model = tiny.model("llama")
    trigger = torch.zeros(2, 16, requires_grad=True)
    with nn.packed_passes(packed):
        assert nn.nll(model, nothing(), trigger=trigger)[1] == 0
        values, rows = nn.log_probs(model, nothing(), trigger=trigger)
    assert (len(values), len(rows)) == (0, 0)


@WAYS
@pytest.mark.parametrize("final_norm", [True, False])
def test_states_of_no_tokens_are_none_for_every_layer(packed: bool, final_norm: bool) -> None:
    model = tiny.model("llama")
    tokens: Any = pack([]) if packed else nothing()
    layers = nn.hidden_states(model, tokens, final_norm=final_norm)
    assert [h.numel() for h in layers] == [0, 0, 0]
    assert {h.shape[-1] for h in layers} == {16}
    with nn.packed_passes(packed):
        kept, end = nn.layer_states(model, nothing(), [], [1, 2], final_norm=final_norm, emit=[])
        early, _ = nn.layer_states(model, nothing(), [], [1, 2], final_norm=final_norm)
        goal = nn.triggered_states(model, [], [], None, final_norm=final_norm)
    for h in (*kept, *early, *goal, end):
        assert h is not None
        assert h.shape == (0, 16)
    assert len(early) == 2
    apart, last = nn.states_apart(model, tokens, [], goal, final_norm=final_norm)
    assert apart.shape == (3, 0)
    assert last.numel() == 0


@WAYS
def test_a_look_inside_sees_every_block_and_nothing_in_it(packed: bool) -> None:
    seen: list[tuple[int, int, int]] = []
    tokens: Any = pack([]) if packed else nothing()
    last = inside(
        tiny.model("llama"),
        tokens,
        lambda i, mlp, out: seen.append((i, mlp.numel(), out.numel())),
        embeddings=True,
    )
    assert seen == [(number, 0, 0) for number in (-1, 0, 1, 2)]
    assert last.shape == (0, 16)


@WAYS
def test_it_adds_nothing_to_a_gradient(packed: bool) -> None:
    model, encoder = tiny.model("llama"), tiny.encoder()
    some = encoder.batch(tiny.rows()[tiny.Role.BENIGN][:2])
    with nn.packed_passes(packed):
        alone, first = nn.mean_gradient(model, [some], "ce")
        beside, second = nn.mean_gradient(model, [some, nothing()], "ce")
        none, third = nn.mean_gradient(model, [nothing()], "ce")
    assert tiny.same(alone, beside)
    assert (total(first), total(third)) == (total(second), 0)
    assert none.norm() == 0
