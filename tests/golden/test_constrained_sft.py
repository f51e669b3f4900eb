"""Constrained fine-tuning: the published weights, and the gradient of the published objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import Run
from holdfast.data.example import Role
from holdfast.defences.constrained_sft import ConstrainedSFT, Start, token_weights
from holdfast.testing import tiny


def moved() -> Any:
    model = tiny.model()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model


def test_weights_worked_by_hand() -> None:
    log = torch.log(torch.tensor([1.0, 3.0, 1 / 3, 1e9]))
    found = token_weights(log, torch.zeros(4), torch.ones(4), 1e-3)
    # 2 (1 - sigmoid(log r)) = 2 / (1 + r)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 1.5, 1e-3]))


def test_each_tokens_sharpness_is_the_published_one() -> None:
    tokens = tiny.encoder().batch(tiny.customer()[:2])
    sharp = ConstrainedSFT().sharpness(tokens).tolist()
    expected: list[float] = []
    for row in tokens.rows:
        number = len(row.ids) - row.start
        expected += ([0.5, 2.0, 2.0, 2.0, 2.0] + [0.1] * number)[:number]
    assert sharp == pytest.approx(expected)


def test_at_the_start_it_is_plain_fine_tuning() -> None:
    model, tokens = tiny.model(), tiny.encoder().batch(tiny.customer()[:4])
    start = Start(nn.frozen_copy(model))
    term = ConstrainedSFT().loss(model, {Role.TASK: tokens}, start)["task"]
    value, count = nn.nll(model, tokens)
    assert term.count == count
    assert float(term.sum.detach()) == pytest.approx(float(value.detach()), rel=1e-6)


def test_its_gradient_is_that_of_the_objective_in_float64() -> None:
    model, tokens = moved(), tiny.encoder().batch(tiny.customer()[:4])
    method = ConstrainedSFT()
    state = method.setup(Run(tiny.model(), tiny.encoder(), tiny.pool(), 0))
    state = Start(nn.frozen_copy(tiny.model())) if state.teacher is model else state
    term = method.loss(model, {Role.TASK: tokens}, state)["task"]
    ours = torch.autograd.grad(term.sum / term.count, list(nn.trainable(model).values()))
    twin, start = moved().double(), tiny.model().double()
    sharp, value, at = method.sharpness(tokens).double(), torch.zeros(()).double(), 0
    for row in tokens.rows:
        ids, where = torch.tensor([row.ids]), slice(row.start - 1, len(row.ids) - 1)
        own = torch.tensor(row.ids[row.start :])
        q, p = (
            m(ids).logits[0, where].log_softmax(-1)[torch.arange(len(own)), own]
            for m in (twin, start)
        )
        b = sharp[at : at + len(own)]
        value = value - (2 / b * torch.nn.functional.logsigmoid(b * (q - p.detach()))).sum()
        at += len(own)
    exact = torch.autograd.grad(value / at, list(nn.trainable(twin).values()))
    size = max(float(g.abs().max()) for g in exact)
    for one, other in zip(ours, exact, strict=True):
        assert float((one.double() - other).abs().max()) < 1e-5 * size
