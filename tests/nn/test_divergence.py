"""Chunked KL equals torch's own, in value and every gradient."""

from __future__ import annotations

import pytest
import torch

from holdfast import nn
from holdfast.nn.head import summed_kl
from holdfast.testing import tiny


def given() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    torch.manual_seed(0)
    old, new = ([torch.randn(7, 6), torch.randn(11, 6), torch.randn(11)] for _ in range(2))
    return [one.requires_grad_(True) for one in old], [one.requires_grad_(True) for one in new]


def twin(parts: list[torch.Tensor], cap: float | None, heat: float) -> torch.Tensor:
    """Give log-probabilities in float64."""
    h, w, b = (one.double() for one in parts)
    z = h @ w.T + b
    return ((cap * torch.tanh(z / cap) if cap else z) / heat).log_softmax(-1)


@pytest.mark.parametrize("chunk", [1, 3, 100, None])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("heat", [1.0, 2.0])
def test_value_and_gradients_equal_the_plain_form(
    chunk: int | None, cap: float | None, heat: float
) -> None:
    old, new = given()
    ours = summed_kl(*old, *new, cap=cap, temperature=heat, chunk=chunk)
    p, q = twin(old, cap, heat).detach(), twin(new, cap, heat)
    theirs = (p.exp() * (p - q)).sum()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    found = torch.autograd.grad(0.3 * ours, new)
    for a, e in zip(found, torch.autograd.grad(0.3 * theirs, new), strict=True):
        torch.testing.assert_close(a, e, atol=1e-6, rtol=1e-5)


def test_worked_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2."""
    one = torch.ones(1, 1)
    old, new = torch.tensor([[3.0], [1.0]]).log(), torch.zeros(2, 1, requires_grad=True)
    value = summed_kl(one, old, None, one, new, None)
    assert value.item() == pytest.approx(0.130812, abs=1e-6)
    found = torch.autograd.grad(value, new)[0]
    torch.testing.assert_close(found, torch.tensor([[-0.25], [0.25]]))


def test_equal_sides_are_at_0_and_the_old_one_is_a_constant() -> None:
    old, new = given()
    value = summed_kl(*old, *new)
    assert torch.autograd.grad(value, old + new, allow_unused=True)[:3] == (None,) * 3
    assert summed_kl(*old, *old).item() == pytest.approx(0.0, abs=1e-5)


def test_its_gradient_exists_once() -> None:
    old, new = given()
    value = summed_kl(*old, *new)
    torch.autograd.grad(value, new, retain_graph=True)
    with pytest.raises(RuntimeError, match="already taken"):
        torch.autograd.grad(value, new)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "phi"])
def test_both_heads_are_read_and_counted(family: str) -> None:
    first, second = tiny.model(family), tiny.model(family, seed=1)
    ids = torch.tensor([[5, 9, 33, 60]])
    meter = nn.FlopMeter()
    with torch.no_grad(), meter.on():
        last = [model.get_decoder()(ids).last_hidden_state[0] for model in (first, second)]
        found = nn.head_kl(first, last[0], second, last[1])
        p, q = (model(ids).logits[0].double().log_softmax(-1) for model in (first, second))
    assert found.item() == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-5)
    assert meter.total == 2 * 2 * 4 * first.get_output_embeddings().weight.numel()
