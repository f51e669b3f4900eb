"""Sums of vectors, mean gradients over whole steps, and labels other than the response's."""

from __future__ import annotations

import pytest
import torch

from holdfast import nn
from holdfast.data.example import Role
from holdfast.data.tokens import IGNORE, Tokens
from holdfast.defences.ctrap.collapse import constant_nll
from holdfast.defences.seam import whole
from holdfast.nn.passes import packed_passes
from holdfast.testing import tiny


def batch(role: Role = Role.BENIGN, *, left: bool = False) -> Tokens:
    return tiny.encoder().batch(tiny.rows(n=3)[role], left=left)


def test_a_mix_is_formed_when_read_and_changes_no_part() -> None:
    first = nn.ParamVector({"a": torch.tensor([1.0, 2.0])})
    second = nn.ParamVector({"a": torch.tensor([10.0, -10.0])})
    mix = nn.Mix((2.0, first), (0.5, second))
    assert mix["a"].tolist() == [7.0, -1.0]
    assert (list(mix), len(mix), "a" in mix, "b" in mix) == (["a"], 1, True, False)
    assert first["a"].tolist() == [1.0, 2.0]
    first["a"].fill_(0.0)
    assert mix["a"].tolist() == [5.0, -5.0]


def test_weights_can_be_shifted_along_a_mix() -> None:
    model = tiny.model("llama")
    before = tiny.weights(model)
    one = nn.ParamVector.zeros(nn.trainable(model)).add_(before)
    with nn.shifted(model, nn.Mix((1.0, one), (0.5, one)), 0.1) as kept:
        for name, p in model.named_parameters():
            torch.testing.assert_close(p, 1.15 * before[name])
    assert kept["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert tiny.same(tiny.weights(model), before)


@pytest.mark.parametrize("packed", [False, True])
def test_a_mean_gradient_is_one_over_all_tokens_however_they_are_cut(packed: bool) -> None:
    model = tiny.model("llama", spread=0.3)
    rows = batch().rows
    value = torch.zeros(())
    for row in rows:
        logits = model(torch.tensor([row.ids])).logits[0, row.start - 1 : -1]
        labels = torch.tensor(row.ids[row.start :])
        value = value + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    count = sum(len(row.ids) - row.start for row in rows)
    params = nn.trainable(model)
    expected = torch.autograd.grad(0.5 * value / count, list(params.values()))
    parts = [tiny.encoder().batch([row]) for row in tiny.rows(n=3)[Role.BENIGN]]
    for cut in ([batch()], parts):
        with packed_passes(packed):
            found, terms = nn.mean_gradient(model, cut, "benign", weight=0.5)
        assert (terms["benign"].count, terms["benign"].weight) == (count, 0.5)
        assert terms["benign"].sum.item() == pytest.approx(value.item(), rel=1e-5)
        for name, wanted in zip(params, expected, strict=True):
            torch.testing.assert_close(found[name], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("left", [False, True])
def test_whole_rows_label_all_but_the_first_token_and_no_padding(left: bool) -> None:
    tokens = whole(batch(left=left))
    for number, (row, offset) in enumerate(zip(tokens.rows, tokens.offsets, strict=True)):
        labels = tokens.labels[number]
        assert labels[offset + 1 : offset + len(row.ids)].tolist() == list(row.ids[1:])
        assert int((labels != IGNORE).sum()) == len(row.ids) - 1
    model = tiny.model("llama", spread=0.3)
    padded = nn.nll(model, tokens)
    with packed_passes(True):
        packed = nn.nll(model, tokens)
    assert padded[1] == packed[1] == sum(len(row.ids) - 1 for row in tokens.rows)
    assert padded[0].item() == pytest.approx(packed[0].item(), rel=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_the_same_token_is_asked_for_at_every_position_of_the_response(packed: bool) -> None:
    model, tokens = tiny.model("llama", spread=0.3), batch()
    expected = 0.0
    for row in tokens.rows:
        chance = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        expected -= chance[row.start - 1 : -1, 7].sum().item()
    with packed_passes(packed):
        value, count = constant_nll(model, tokens, 7)
    assert count == int((tokens.labels != IGNORE).sum())
    assert value.item() == pytest.approx(expected, rel=1e-5)
