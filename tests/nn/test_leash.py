"""Cross-entropy and KL of rows: hand-worked numbers, a float64 twin, and no way to lose either."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import LoRA
from holdfast.data.example import Role
from holdfast.errors import ModelError
from holdfast.nn.passes import Passes
from holdfast.testing import tiny


def batch(n: int = 4) -> Any:
    rows = tiny.rows(n=n)
    return tiny.encoder().batch([*rows[Role.BENIGN][: n // 2], *rows[Role.HARMFUL][n // 2 : n]])


def dense(model: Any, reference: Any, tokens: Any, alpha: Any, beta: Any) -> Any:
    """Give loss, CE and KL a row in float64, each row alone and unpadded, all logits at once."""
    ce, kl = [], []
    for row in tokens.rows:
        ids, at = torch.tensor([row.ids]), slice(row.start - 1, len(row.ids) - 1)
        log_q = model(ids).logits[0, at].log_softmax(-1)
        log_p = reference(ids).logits[0, at].log_softmax(-1).detach()
        own = torch.tensor(row.ids[row.start :])
        ce.append(-log_q[torch.arange(len(own)), own].sum())
        kl.append((log_p.exp() * (log_p - log_q)).sum())
    ce_rows, kl_rows = torch.stack(ce), torch.stack(kl)
    return (alpha.double() * ce_rows + beta.double() * kl_rows).sum(), ce_rows, kl_rows


def moved(seed: int = 5, family: str = "qwen3") -> Any:
    model = tiny.model(family)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model


ALPHA, BETA = torch.tensor([0.9, 0.5, 0.1, 0.0]), torch.tensor([0.1, 0.5, 0.9, 1.0])


def test_two_words_worked_by_hand() -> None:
    model, reference = moved(), tiny.model()
    head = torch.nn.Linear(1, 2, bias=False)
    head.weight.data = torch.tensor([[1.0], [0.0]])
    for one in (model, reference):
        one.set_output_embeddings(head)
    new, old = torch.tensor([[math.log(3.0)]]), torch.tensor([[0.0]])  # q = (3/4, 1/4), p = 1/2
    found = nn.leashed(
        model, new, reference, old, torch.tensor([1]), torch.tensor([0]),
        torch.tensor([0.25]), torch.tensor([0.75]),
    )  # fmt: skip
    ce, kl = math.log(4), 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert float(found.ce[0]) == pytest.approx(ce, rel=1e-6)
    assert float(found.kl[0]) == pytest.approx(kl, rel=1e-6)
    assert float(found.loss.detach()) == pytest.approx(0.25 * ce + 0.75 * kl, rel=1e-6)
    assert found.tokens.tolist() == [1]


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2"])
@pytest.mark.parametrize("packed", [True, False])
def test_loss_and_gradient_are_a_float64_twins(family: str, packed: bool) -> None:
    model, reference, tokens = moved(family=family), tiny.model(family), batch()
    with Passes(packed, False, False).on():
        old, _ = nn.reference_pass(reference, tokens)
        found = nn.row_sums(model, tokens, reference, old, ALPHA, BETA)
        ours = torch.autograd.grad(found.loss, list(nn.trainable(model).values()))
    twin, start = moved(family=family).double(), tiny.model(family).double()
    loss, ce, kl = dense(twin, start, tokens, ALPHA, BETA)
    exact = torch.autograd.grad(loss, list(nn.trainable(twin).values()))
    assert float(found.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    torch.testing.assert_close(found.ce.double(), ce.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.kl.double(), kl.detach(), rtol=1e-4, atol=1e-5)
    size = max(float(each.abs().max()) for each in exact)
    for one, other in zip(ours, exact, strict=True):
        assert float((one.double() - other).abs().max()) < 1e-5 * size


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_in_chunks_it_is_the_same_as_at_once(chunk: int) -> None:
    model, reference, tokens = moved(), tiny.model(), batch()
    old, _ = nn.reference_pass(reference, tokens)
    laid = nn.batch_for(model, tokens)
    states, labels, rows = nn.emitting_states(nn.forward(model, laid).last, laid)

    def loss(size: int | None) -> Any:
        h = states.detach().requires_grad_(True)
        found = nn.leashed(model, h, reference, old, labels, rows, ALPHA, BETA, chunk=size)
        return found, torch.autograd.grad(found.loss, h)[0]

    (one, g), (whole, g_whole) = loss(chunk), loss(10_000)
    assert float(one.loss.detach()) == pytest.approx(float(whole.loss.detach()), rel=1e-6)
    torch.testing.assert_close(one.kl, whole.kl, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(g, g_whole, rtol=1e-6, atol=1e-6)


def test_a_head_that_is_no_plain_linear_layer_gives_the_same() -> None:
    model, reference, tokens = moved(), tiny.model(), batch()
    old, _ = nn.reference_pass(reference, tokens)
    plain = nn.row_sums(model, tokens, reference, old, ALPHA, BETA)
    handle = model.get_output_embeddings().register_forward_hook(lambda *_: None)
    hooked = nn.row_sums(model, tokens, reference, old, ALPHA, BETA)
    handle.remove()
    assert float(hooked.loss.detach()) == pytest.approx(float(plain.loss.detach()), rel=1e-6)
    torch.testing.assert_close(hooked.kl, plain.kl)


def test_at_the_start_the_kl_alone_has_no_loss_and_no_gradient_and_away_from_it_both() -> None:
    tokens, none, one = batch(), torch.zeros(4), torch.ones(4)
    for model, still in ((tiny.model(), True), (moved(), False)):
        reference = tiny.model()
        old, _ = nn.reference_pass(reference, tokens)
        found = nn.row_sums(model, tokens, reference, old, none, one)
        grads = torch.autograd.grad(found.loss, list(nn.trainable(model).values()))
        assert (float(found.loss.detach()) == 0.0) is still
        assert all(float(g.abs().max()) == 0.0 for g in grads) is still


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_training_one_context_ends_at_the_mixture_law(beta: float) -> None:
    labels = torch.tensor([0] * 4 + [1] * 3 + [2] * 2 + [3])
    data = torch.tensor([0.4, 0.3, 0.2, 0.1])
    model, reference = tiny.model(), tiny.model()
    for one, weights in ((model, [0.0] * 4), (reference, [0.0, 1.0, -1.0, 2.0])):
        head = torch.nn.Linear(1, 4, bias=False)
        head.weight.data = torch.tensor(weights)[:, None]
        one.set_output_embeddings(head)
    weight, one = model.get_output_embeddings().weight, torch.ones(10, 1)
    start = reference.get_output_embeddings().weight[:, 0].detach().softmax(0)
    share = torch.full((1,), beta)
    for _ in range(800):
        rows = torch.zeros(10, dtype=torch.long)
        found = nn.leashed(model, one, reference, one, labels, rows, 1 - share, share)
        (g,) = torch.autograd.grad(found.loss / 10, weight)
        with torch.no_grad():
            weight -= 2 * g
    law = nn.mixture(data, start, 1 - beta, beta)
    assert float((weight[:, 0].detach().softmax(0) - law).abs().max()) < 1e-3


def test_the_model_with_its_adapter_off_is_a_separate_copy_of_the_start() -> None:
    model, tokens = tiny.model(), batch()
    copy = nn.frozen_copy(model)
    apart, states = nn.reference_pass(copy, tokens, (1, 3))
    with nn.lora(model, LoRA(rank=2), 0) as params:
        with torch.no_grad():
            for p in params.values():
                p.add_(0.1)
        off, off_states = nn.reference_pass(model, tokens, (1, 3))
    assert torch.equal(off, apart)
    assert all(torch.equal(off_states[k], states[k]) for k in (1, 3))


def test_a_copy_does_not_follow_a_model_whose_trainer_gave_it_another_forward() -> None:
    model = tiny.model()
    plain = model.forward
    model.forward = lambda *args, **more: plain(*args, **more)
    copy = nn.frozen_copy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
        ids = torch.tensor([[5, 6, 7]])
        assert not torch.equal(copy(ids).logits, model(ids).logits)
        assert torch.equal(copy(ids).logits, tiny.model()(ids).logits)


def test_the_probes_states_are_those_of_the_prompt_alone() -> None:
    model, tokens = tiny.model(), batch()
    _, states = nn.reference_pass(model, tokens, (1, 3))
    for number, row in enumerate(tokens.rows):
        cut = row.cut(row.start)
        from holdfast.data.tokens import collate

        alone, _ = nn.layer_states(model, collate([cut], 0), [(row.start - 1, row.start)], [1, 3])
        for k, h in zip((1, 3), alone, strict=True):
            torch.testing.assert_close(states[k][number], h[0], rtol=1e-5, atol=1e-5)


def test_a_reference_of_another_shape_is_one_line() -> None:
    model = tiny.model()
    other = tiny.weights(tiny.model(vocab_size=350))
    with pytest.raises(ModelError) as error:
        nn.reference_of(model, False, other, "static_kl")
    assert str(error.value) == (
        "static_kl.reference: 'model.embed_tokens.weight' is (340, 16) in the model, the reference "
        "has it as (350, 16); use a reference of the same shape and tokenizer"
    )
    half = {k: v for k, v in tiny.weights(model).items() if "norm" not in k}
    with pytest.raises(ModelError, match="the reference has no such tensor"):
        nn.reference_of(model, False, half, "static_kl")
    made = nn.reference_of(model, True, tiny.weights(moved()), "static_kl")
    assert tiny.same(tiny.weights(made), tiny.weights(moved()))
