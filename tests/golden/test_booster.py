"""Booster's gradient against autograd of its objective with the inner gradient held constant."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import tiny
from torch import Tensor
from torch.func import functional_call

from holdfast import models
from holdfast.data.example import Role
from holdfast.data.tokens import Tokens
from holdfast.defences.booster import Booster, booster_gradient
from holdfast.errors import TrainingError
from holdfast.models.vectors import total
from holdfast.run import Loop


def step(cuts: int = 4, bos: bool = False) -> dict[Role, list[Tokens]]:
    encoder, rows = tiny.encoder(bos=bos), tiny.rows(n=4)
    return {
        role: [encoder.batch(rows[role][i : i + cuts]) for i in range(0, 4, cuts)]
        for role in (Role.REFUSAL, Role.HARMFUL)
    }


def twin_mean(model: Any, params: dict[str, Tensor], parts: list[Tokens]) -> Tensor:
    """CE over all response tokens at `params`, in float64, from Hugging Face's own logits."""
    losses = []
    for tokens in parts:
        for row in tokens.rows:
            arguments = (torch.tensor([row.ids]),)
            logits = functional_call(model, params, arguments, {"use_cache": False}).logits
            chance = logits[0].double().log_softmax(-1)
            losses += [-chance[i - 1, row.ids[i]] for i in range(row.start, len(row.ids))]
    return sum(losses) / len(losses)


def twin(model: Any, at: dict[Role, list[Tokens]], lam: float, alpha: float) -> Any:
    """f(w) + lam [h(w) - h(w - alpha u)], u = grad h / |grad h| a constant; value, gradient."""
    params = {name: p.detach().clone().requires_grad_(True) for name, p in model.named_parameters()}
    leaves = list(params.values())
    harm = torch.autograd.grad(twin_mean(model, params, at[Role.HARMFUL]), leaves)
    length = sum(g.double().square().sum() for g in harm).sqrt()
    after = {
        name: p - alpha * (g / length).to(p.dtype)
        for (name, p), g in zip(params.items(), harm, strict=True)
    }
    value = twin_mean(model, params, at[Role.REFUSAL]) + lam * (
        twin_mean(model, params, at[Role.HARMFUL]) - twin_mean(model, after, at[Role.HARMFUL])
    )
    found = torch.autograd.grad(value, leaves)
    return value.item(), dict(zip(params, found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("family", "bos"), [("qwen3", False), ("llama", True), ("mistral", False)])
def test_the_gradient_is_autograds_of_the_objective(
    family: str, bos: bool, dtype: torch.dtype
) -> None:
    model = tiny.model(family, spread=0.3, num_hidden_layers=2).to(dtype)
    before = tiny.weights(model)
    found, terms = Booster(lam=2.0, alpha=0.3).gradient(model, step(bos=bos), None)
    assert tiny.same(tiny.weights(model), before)
    value, expected = twin(model, step(bos=bos), 2.0, 0.3)
    assert total(terms) == pytest.approx(value, rel=2e-6)
    size = max(1.0, sum(e.double().square().sum().item() for e in expected.values()) ** 0.5)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).abs().max().item() <= 1e-6 * size, name


def test_the_harmful_step_matters() -> None:
    """Were the perturbation lost, the two harmful terms would cancel and Booster be plain SFT."""
    model = tiny.model(spread=0.3)
    boosted, _ = Booster(lam=2.0, alpha=0.3).gradient(model, step(), None)
    plain, _ = Booster(lam=0.0).gradient(model, step(), None)
    assert boosted.add_(plain, -1.0).norm() > 0.05 * plain.norm()


def test_without_weight_it_is_fine_tuning_on_refusals() -> None:
    model = tiny.model(spread=0.3)
    found, _ = Booster(lam=0.0).gradient(model, step(), None)
    value = twin_mean(model, dict(model.named_parameters()), step()[Role.REFUSAL])
    params = models.trainable(model)
    expected = torch.autograd.grad(value, list(params.values()))
    for name, tensor in zip(params, expected, strict=True):
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)


def test_the_gradient_worked_by_hand() -> None:
    """1 + 2 (5 - 3) = 5 and 10 + 2 (0.5 - 1) = 9."""
    vectors = [
        models.ParamVector({"a": torch.tensor([x]), "b": torch.tensor([y])})
        for x, y in ((1.0, 10.0), (5.0, 0.5), (3.0, 1.0))
    ]
    found = booster_gradient(*vectors, lam=2.0)
    assert (found["a"].item(), found["b"].item()) == (5.0, 9.0)


def test_the_terms_say_what_was_measured() -> None:
    model = tiny.model(spread=0.3)
    _, terms = Booster(lam=3.0, alpha=0.2).gradient(model, step(), None)
    assert {name: term.weight for name, term in terms.items()} == {
        "align": 1.0,
        "harm": 3.0,
        "harm_after": -3.0,
    }
    assert terms["harm"].count == terms["harm_after"].count
    assert terms["harm_after"].sum < terms["harm"].sum  # a small step down goes down


def test_a_step_lost_to_bf16_stops_the_run_and_leaves_the_weights() -> None:
    model = tiny.model("llama").to(torch.bfloat16)
    before = tiny.weights(model)
    with pytest.raises(TrainingError) as caught:
        Booster(alpha=1e-4).gradient(model, step(), None)
    said = str(caught.value)
    assert said.startswith("booster: lost to rounding (cosine 0.")
    assert said.endswith("); use precision: fp32 or a larger step")
    assert tiny.same(tiny.weights(model), before)


def test_a_harmful_gradient_of_0_is_told() -> None:
    model = tiny.model("llama")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.lm_head.weight.requires_grad_(False)
    with pytest.raises(TrainingError) as caught:
        Booster().gradient(model, step(), None)
    assert str(caught.value) == (
        "booster: the harmful gradient is 0; check the harmful rows and the precision"
    )


def test_it_reads_the_released_numbers() -> None:
    assert (Booster().lam, Booster().alpha) == (5.0, 0.1)
    assert Booster().loop == Loop(steps=10_000, batch=10, lr=5e-4, weight_decay=0.1)
