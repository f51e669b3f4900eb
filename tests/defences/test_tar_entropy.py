"""The entropy of the next token, in chunks, against all logits at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holdfast import nn
from holdfast.data.example import Role
from holdfast.defences.tar.entropy import logits_entropy, next_entropy
from holdfast.testing import tiny


def plain(h: Tensor, w: Tensor, b: Tensor | None, cap: float | None) -> Tensor:
    z = h.double() @ w.double().T + (0 if b is None else b.double())
    if cap:
        z = cap * torch.tanh(z / cap)
    p = z.softmax(-1)
    return -(p * p.log()).sum()


def test_worked_by_hand() -> None:
    """Four equal chances: log 4; one half and two quarters: 1.5 log 2."""
    assert logits_entropy(torch.zeros(2, 4)).tolist() == pytest.approx([math.log(4)] * 2)
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    assert logits_entropy(logits).item() == pytest.approx(1.5 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("chunk", [None, 2, 5])
def test_value_and_gradients_are_autograds(
    cap: float | None, biased: bool, chunk: int | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    h, w, b = (torch.randn(shape, generator=generator) for shape in ((5, 3), (7, 3), (7,)))
    leaves = [x.requires_grad_(True) for x in ((h, w, b) if biased else (h, w))]
    ours = nn.summed_entropy(h, w, b if biased else None, cap=cap, chunk=chunk)
    theirs = plain(h, w, b if biased else None, cap)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    found = torch.autograd.grad(3 * ours, leaves)
    expected = torch.autograd.grad(3 * theirs, leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
    with pytest.raises(RuntimeError, match="already taken"):
        ours.backward()


def test_no_gradient_is_formed_where_none_is_asked_for() -> None:
    h, w = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3)
    with torch.no_grad():
        assert not nn.summed_entropy(h, w, None).requires_grad
    assert nn.summed_entropy(h, w, None).requires_grad


@pytest.mark.parametrize("family", tiny.DECODERS)
@pytest.mark.parametrize("everywhere", [True, False])
def test_every_decoder_padded_and_packed(family: str, everywhere: bool) -> None:
    model = tiny.model(family, num_hidden_layers=2)
    rows = tiny.rows(n=3)[Role.HARMFUL]
    expected, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            alone = tiny.encoder().batch([row])
            each = logits_entropy(model(alone.ids).logits[0].double())
            start = alone.rows[0].start
            each = each if everywhere else each[start - 1 : -1]
            expected, count = expected + each.sum().item(), count + len(each)
        for left in (False, True):
            tokens = tiny.encoder().batch(rows, left=left)
            found = next_entropy(model, tokens, everywhere=everywhere)
            assert found[1] == count
            assert found[0].item() == pytest.approx(expected, rel=1e-5)
        with nn.packed_passes(True):
            found = next_entropy(model, tiny.encoder().batch(rows), everywhere=everywhere)
    assert found[0].item() == pytest.approx(expected, rel=1e-5)


def test_a_head_that_bears_a_hook_is_asked_itself() -> None:
    model = tiny.model("llama")
    tokens = tiny.encoder().batch(tiny.rows(n=2)[Role.HARMFUL])
    before, count = next_entropy(model, tokens)
    handle = model.lm_head.register_forward_hook(lambda _m, _i, out: out * 0)
    after, same = next_entropy(model, tokens)
    handle.remove()
    assert count == same
    assert after.item() == pytest.approx(count * math.log(tiny.VOCABULARY), rel=1e-5)
    assert before < after
