"""Chunked cross-entropy equals torch's own, in value and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.data.example import Role
from holdfast.nn.head import summed_nll
from holdfast.testing import tiny


def plain(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    cap: float | None,
) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).double()
    if cap:
        logits = cap * torch.tanh(logits / cap)
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


def given() -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    made = [torch.randn(7, 6), torch.randn(11, 6), torch.randn(11)]
    return [one.requires_grad_(True) for one in made], torch.randint(0, 11, (7,))


@pytest.mark.parametrize("chunk", [1, 3, 7, 100, None])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("biased", [False, True])
def test_value_and_gradients_equal_the_plain_form(
    chunk: int | None, cap: float | None, biased: bool
) -> None:
    inputs, labels = given()
    inputs = inputs if biased else inputs[:2]
    h, w, b = (*inputs, None)[:3]
    ours, theirs = summed_nll(h, w, b, labels, cap=cap, chunk=chunk), plain(h, w, b, labels, cap)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    found = torch.autograd.grad(0.3 * ours, inputs)
    for a, e in zip(found, torch.autograd.grad(0.3 * theirs, inputs), strict=True):
        torch.testing.assert_close(a, e, atol=1e-6, rtol=1e-5)


def test_large_logits_are_finite() -> None:
    h, w = torch.tensor([[1e4]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    value = summed_nll(h, w, None, torch.tensor([1]))
    assert value.item() == 2e4
    assert torch.autograd.grad(value, h)[0].item() == 2.0


def test_gradients_are_formed_only_where_one_is_asked_for() -> None:
    (h, w, _), labels = given()
    w.requires_grad_(False)
    (found,) = torch.autograd.grad(summed_nll(h, w, None, labels), h)
    (expected,) = torch.autograd.grad(plain(h, w, None, labels, None), h)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        assert not summed_nll(h, w, None, labels).requires_grad


def test_a_second_backward_pass_is_an_error() -> None:
    (h, w, _), labels = given()
    value = summed_nll(h, w, None, labels)
    torch.autograd.grad(value, h, retain_graph=True)
    with pytest.raises(RuntimeError, match="already taken"):
        torch.autograd.grad(value, h)


def test_bfloat16_products_give_a_loss_in_fp32() -> None:
    (h, w, _), labels = given()
    expected = plain(h, w, None, labels, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = summed_nll(h, w, None, labels, chunk=3)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-2)
    found = torch.autograd.grad(value, [h, w])
    assert [one.dtype for one in found] == [torch.float32] * 2
    for a, e in zip(found, torch.autograd.grad(expected, [h, w]), strict=True):
        torch.testing.assert_close(a, e, atol=0.05, rtol=0.05)


def _softcapped(model: Any) -> Any:
    model.config.final_logit_softcapping = 2.0
    return model


@pytest.mark.parametrize("change", [lambda model: model, _softcapped], ids=["plain", "capped"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_nll_packed_equals_padded_with_every_gradient(family: str, change: Any) -> None:
    model = change(tiny.model(family))
    tokens = tiny.encoder().batch(tiny.rows(n=4)[Role.BENIGN])
    params = list(model.parameters())
    values = []
    for packed in (False, True):
        with nn.packed_passes(packed):
            value, count = nn.nll(model, tokens)
        values.append((float(value.detach()), count, torch.autograd.grad(value, params)))
    (padded, n, told), (packed, m, found) = values
    assert (packed, m) == (pytest.approx(padded, rel=1e-6), n)
    size = float(sum(g.double().square().sum() for g in told)) ** 0.5
    for a, b in zip(found, told, strict=True):
        assert float((a - b).abs().max()) <= 1e-6 * max(1.0, size)
