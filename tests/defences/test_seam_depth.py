"""The cross-entropy of every depth, on every decoder family, padded and packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn

from holdfast import nn
from holdfast.data.tokens import Tokens
from holdfast.defences.seam import depth_nll
from holdfast.errors import ModelError
from holdfast.nn.head import final_norm
from holdfast.nn.passes import FlopMeter, packable, packed_passes
from holdfast.testing import tiny


def batch() -> Tokens:
    rows = tiny.rows(n=3)
    return tiny.encoder().batch([rows[role][i] for i, role in enumerate(rows)])


@pytest.mark.parametrize("lens", ["blocks", "all"])
@pytest.mark.parametrize("family", tiny.DECODERS)
def test_every_block_is_read_through_the_final_norm_and_the_head(family: str, lens: Any) -> None:
    """Rows alone, unpadded, through Hugging Face's own states; the last is the model's own CE.

    As released every one of its L + 1 states is normed, the last once more, and the model's own
    CE is added: L + 2 terms over L + 1.
    """
    model = tiny.model(family, spread=0.3)
    tokens, norm = batch(), final_norm(model)
    cap = getattr(model.config, "final_logit_softcapping", None)
    expected = torch.zeros(())
    count = 0
    for row in tokens.rows:
        out = model(torch.tensor([row.ids]), output_hidden_states=True)
        read = out.hidden_states if lens == "all" else out.hidden_states[1:-1]
        states = [norm(h) for h in read] + [out.hidden_states[-1]]
        labels = torch.tensor(row.ids[row.start :])
        for h in states:
            logits = model.lm_head(h[0, row.start - 1 : -1])
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            expected = expected + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        count += len(labels) * (len(states) - (lens == "all"))
    params = nn.trainable(model)
    slopes = torch.autograd.grad(expected, list(params.values()))
    for packed in (False, True) if packable(model) else (False,):
        with packed_passes(packed):
            value, n = depth_nll(model, tokens, lens)
        assert n == count
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
        for name, found, wanted in zip(
            params, torch.autograd.grad(value, list(params.values())), slopes, strict=True
        ):
            close = 1e-4 * max(1.0, wanted.abs().max().item())
            assert (found - wanted).abs().max().item() <= close, name


def test_a_head_that_is_no_plain_matrix_gives_the_same() -> None:
    model, tokens = tiny.model("gemma2", spread=0.3), batch()
    plain, _ = depth_nll(model, tokens)
    handle = model.lm_head.register_forward_hook(lambda *_: None)
    hooked, _ = depth_nll(model, tokens)
    handle.remove()
    assert hooked.item() == pytest.approx(plain.item(), rel=1e-5)


def test_the_heads_are_metered_one_a_block() -> None:
    model, tokens = tiny.model("llama"), batch()
    with torch.no_grad():
        with FlopMeter().on() as meter:
            nn.nll(model, tokens)
        with FlopMeter().on() as deep:
            _, n = depth_nll(model, tokens)
    head = 2.0 * model.lm_head.weight.numel()
    assert deep.total - meter.total == pytest.approx(head * n * 2 / 3)


def test_a_model_without_a_norm_is_told() -> None:
    model = tiny.model("llama")
    model.model.norm = torch.nn.Identity()
    with pytest.raises(ModelError) as caught:
        depth_nll(model, batch())
    assert str(caught.value) == "model: no final norm; use a decoder-only model that has one"
