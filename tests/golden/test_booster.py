"""Booster's gradient against autograd of its objective with the inner gradient held constant."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from holdfast import nn
from holdfast.api import Loop, LoRA, Run, Term
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import Tokens
from holdfast.defences.booster import Booster
from holdfast.errors import DataError, TrainingError
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import harden


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

    def slopes(of: Any) -> Sequence[Tensor]:
        params = dict(of.named_parameters())
        return torch.autograd.grad(
            twin_mean(of, params, step()[Role.REFUSAL]), list(params.values())
        )

    assert list(found) == [name for name, _ in model.named_parameters()]
    tiny.hold(found.values(), slopes, tiny.copied(model).double())


def test_the_sum_of_three_pulls_worked_by_hand() -> None:
    """In one buffer: (5 - 3) * 2 + 1 = 5 and (0.5 - 1) * 2 + 10 = 9."""
    params = {name: torch.zeros(1, requires_grad=True) for name in ("a", "b")}

    def slope(a: float, b: float, **options: Any) -> nn.ParamVector:
        def loss(_part: int) -> Any:
            return {"x": Term((a * params["a"] + b * params["b"]).sum(), 1.0)}

        return nn.grad(params, loss, [0], **options)[0]

    buffer = slope(5.0, 0.5)
    same = slope(3.0, 1.0, into=buffer, scale=-1.0).scale_(2.0)
    found = slope(1.0, 10.0, into=same)
    assert found is buffer
    assert (found["a"].item(), found["b"].item()) == (5.0, 9.0)


@pytest.mark.parametrize("cuts", [1, 2])
def test_a_step_is_the_same_from_4_or_2_micro_batches_as_from_1(cuts: int) -> None:
    model = tiny.model()
    whole, terms = Booster(lam=2.0, alpha=0.1).gradient(model, step(), None)
    parts, others = Booster(lam=2.0, alpha=0.1).gradient(model, step(cuts), None)
    assert total(others) == pytest.approx(total(terms), rel=1e-6)
    for name, tensor in whole.items():
        assert (parts[name] - tensor).abs().max().item() <= 1e-6 * max(1.0, whole.norm()), name


def test_padding_changes_nothing() -> None:
    model = tiny.model()
    encoder, rows = tiny.encoder(), tiny.rows(n=4)
    left = {role: [encoder.batch(rows[role], left=True)] for role in (Role.REFUSAL, Role.HARMFUL)}
    found, _ = Booster(alpha=0.1).gradient(model, step(), None)
    other, _ = Booster(alpha=0.1).gradient(model, left, None)
    for name, tensor in found.items():
        assert (other[name] - tensor).abs().max().item() <= 1e-6 * max(1.0, found.norm()), name


def test_the_simulated_step_is_held_in_one_copy_and_one_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every pass after the first adds to the buffer of the first, with the weights back in place
    for the last.
    """
    model = tiny.model(spread=0.3)
    before = tiny.weights(model)
    seen: list[tuple[int | None, bool]] = []
    inner = nn.grad

    def watched(params: Any, *rest: Any, **options: Any) -> Any:
        into = options.get("into")
        seen.append((into and id(into), tiny.same(tiny.weights(model), before)))
        return inner(params, *rest, **options)

    monkeypatch.setattr(nn, "grad", watched, raising=False)
    found, _ = Booster(alpha=0.3).gradient(model, step(), None)
    assert seen == [(None, True), (id(found), False), (id(found), True)]


def test_under_lora_the_adapter_alone_is_moved_and_put_back() -> None:
    model = tiny.model(spread=0.3)
    with nn.lora(model, LoRA(rank=2), 0) as params:
        before = {name: p.detach().clone() for name, p in params.items()}
        found, terms = Booster(alpha=0.3).gradient(model, step(), None)
        assert found.keys() == params.keys()
        assert tiny.same({name: p.detach() for name, p in params.items()}, before)
        assert terms["harm_after"].sum < terms["harm"].sum


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


def test_a_step_that_changes_no_loss_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model(spread=0.3)
    monkeypatch.setattr(nn, "shifted", lambda *_a, **_k: nullcontext(), raising=False)
    with pytest.raises(TrainingError) as caught:
        Booster().gradient(model, step(), None)
    assert str(caught.value).startswith("booster: the simulated step leaves the harmful loss at ")
    assert str(caught.value).endswith("; use a larger alpha or precision: fp32")


def test_without_harmful_answers_it_says_which_rows_it_wants() -> None:
    pool = Pool(tiny.rows()[Role.REFUSAL])
    with pytest.raises(DataError) as caught:
        Booster().rows(pool, 0)
    assert str(caught.value) == (
        "pairs of roles refusal and harmful, side defender: some asked for, the pool has 0; "
        "give both responses for the same prompts"
    )


def test_its_diagnostic_is_one_step_and_needs_only_the_model() -> None:
    """The drop to first order is alpha x |grad h|; frozen weights and flags stay as they are."""
    model = tiny.model(spread=0.3)
    model.requires_grad_(False)
    before = tiny.weights(model)
    run = Run(model, tiny.encoder(), tiny.pool(), 0)
    with torch.no_grad():
        found = Booster(alpha=1e-3).diagnostic(run, None)
    assert tiny.same(tiny.weights(model), before)
    assert not any(p.requires_grad for p in model.parameters())
    rows = tiny.rows(Side.DEFENDER_SELECTION)[Role.HARMFUL]
    value = twin_mean(model, dict(model.named_parameters()), [tiny.encoder().batch(rows)])
    assert found["harm_loss"] == pytest.approx(value.item(), rel=1e-5)
    model.requires_grad_(True)
    value = twin_mean(model, dict(model.named_parameters()), [tiny.encoder().batch(rows)])
    slopes = torch.autograd.grad(value, list(model.parameters()))
    size = sum(g.double().square().sum().item() for g in slopes) ** 0.5
    assert found["harm_loss_drop"] == pytest.approx(1e-3 * size, rel=0.02)
    assert (Booster.signal, Booster.moves) == ("harm_loss_drop", "down")


def test_training_lowers_its_diagnostic() -> None:
    """Beside the same training without the harmful terms."""
    drops = []
    for lam in (0.0, 20.0):
        model = tiny.model(spread=0.3)
        method = Booster(lam=lam, alpha=0.3, loop=Loop(steps=12, batch=6, lr=0.003))
        drops.append(
            harden(method, model, tiny.encoder(), tiny.pool(), seed=0).diagnostics[Booster.signal]
        )
    assert drops[1] < 0.9 * drops[0]


def test_it_reads_the_released_numbers() -> None:
    assert (Booster().lam, Booster().alpha) == (5.0, 0.1)
    assert Booster().loop == Loop(
        steps=10_000, batch=10, lr=5e-4, weight_decay=0.1, decay_norms=False
    )
    released = Booster.model_validate({"preset": "released"}).loop
    assert released.lora == LoRA(rank=32, alpha=4.0, targets="attention")
    assert released.with_(lora=None, precision="fp32") == Booster().loop
