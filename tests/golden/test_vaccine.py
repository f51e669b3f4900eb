"""Vaccine against its equation worked by hand and against rows run alone in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.nn.test_perturb import batch, compare, twin

from holdfast import nn
from holdfast.api import Loop, Run, Term
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import Tokens
from holdfast.defences.vaccine import Vaccine
from holdfast.errors import ConfigError, DataError, TrainingError
from holdfast.nn.passes import packed_passes
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import harden

LOOP = Loop(steps=3, batch=4, lr=0.01)


def step(cuts: int = 4, bos: bool = False) -> dict[Role, list[Tokens]]:
    encoder, rows = tiny.encoder(bos=bos), tiny.rows(n=4)[Role.REFUSAL]
    return {Role.REFUSAL: [encoder.batch(rows[i : i + cuts]) for i in range(0, 4, cuts)]}


def run_of(model: Any, pool: Pool | None = None) -> Run:
    return Run(model, tiny.encoder(), pool or tiny.pool(), 0)


# ---- the equation


def test_the_perturbation_worked_by_hand() -> None:
    """Gradients (3, 0) and (0, 4) together are 5 long: rho = 10 gives (6, 0) and (0, 8)."""
    gradients = {0: torch.tensor([3.0, 0.0]), 2: torch.tensor([0.0, 4.0])}
    found = nn.worst_case(gradients, 10.0)
    torch.testing.assert_close(found[0], torch.tensor([6.0, 0.0]))
    torch.testing.assert_close(found[2], torch.tensor([0.0, 8.0]))


def test_no_gradient_gives_no_perturbation() -> None:
    assert not nn.worst_case({0: torch.zeros(2, 3)}, 5.0)[0].any()


@pytest.mark.parametrize("packed", [False, True])
def test_its_length_over_all_layers_tokens_and_rows_is_rho(packed: bool) -> None:
    """Acceptance (b)."""
    with packed_passes(packed):
        found, _, _ = nn.output_gradients(tiny.model(spread=0.3), batch())
    direction = {k: g.clone() for k, g in found.items()}
    eps = nn.worst_case(found, 2.5)
    assert float(nn.total_norm(eps.values())) == pytest.approx(2.5, rel=1e-5)
    ratios = {float((eps[k] / g)[g.abs() > 1e-4].mean()) for k, g in direction.items()}
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-4)  # one factor for every layer


@pytest.mark.parametrize("cuts", [4, 2, 1])
@pytest.mark.parametrize(
    ("family", "bos", "packed"),
    [("qwen3", False, True), ("llama", True, True), ("mistral", False, False)],
)
def test_the_gradient_is_the_twins_and_the_norm_each_micro_batches_own(
    family: str, bos: bool, packed: bool, cuts: int
) -> None:
    """Acceptance (d): a step in parts is the sum over parts, each perturbed by its own rho."""
    model = tiny.model(family, spread=0.3).double()
    before = tiny.weights(model)
    with packed_passes(packed):
        found, terms = Vaccine(rho=0.7).gradient(model, step(cuts, bos), None)
    assert tiny.same(tiny.weights(model), before)
    value, expected = twin(model, step(cuts, bos)[Role.REFUSAL], 0.7)
    assert total(terms) == pytest.approx(value, rel=2e-6)
    compare(found, expected)


def test_a_split_changes_the_norm_and_so_the_gradient() -> None:
    model = tiny.model(spread=0.3)
    whole, _ = Vaccine(rho=2.0).gradient(model, step(4), None)
    halves, _ = Vaccine(rho=2.0).gradient(model, step(2), None)
    assert halves.add_(whole, -1.0).norm() > 1e-3 * whole.norm()


def test_the_papers_reading_perturbs_the_blocks() -> None:
    model = tiny.model("llama", spread=0.3).double()
    found, _ = Vaccine(preset="paper", rho=0.7).gradient(model, step(2), None)
    _, expected = twin(model, step(2)[Role.REFUSAL], 0.7, site="block")
    compare(found, expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cuts", [4, 1])
def test_without_length_it_is_fine_tuning_bit_for_bit(cuts: int, packed: bool) -> None:
    """Acceptance (a)."""
    model = tiny.model(spread=0.3)
    params = nn.trainable(model)

    def loss(part: Tokens) -> Any:
        value, count = nn.nll(model, part)
        return {"refusal": Term(value, count, 1.0, "tokens")}

    with packed_passes(packed):
        found, _ = Vaccine(rho=0.0).gradient(model, step(cuts), None)
        expected, _ = nn.grad(params, loss, step(cuts)[Role.REFUSAL])
    assert tiny.same(found, expected)


@pytest.mark.parametrize("rho", [1e-3, 1e-2])
def test_the_second_loss_is_the_first_and_rho_times_the_gradient(rho: float) -> None:
    """Acceptance (c): loss + rho |g| to first order."""
    model, parts = tiny.model(spread=0.3), step()
    found, value, count = nn.output_gradients(model, parts[Role.REFUSAL][0])
    rise = rho * float(nn.total_norm(found.values()))
    _, terms = Vaccine(rho=rho).gradient(model, parts, None)
    plain = float(terms["plain"].sum) / terms["plain"].count
    perturbed = float(terms["refusal"].sum) / terms["refusal"].count
    assert plain == pytest.approx(float(value) / count, rel=1e-6)
    assert perturbed - plain == pytest.approx(rise, rel=0.02, abs=2e-6)


def test_a_long_perturbation_raises_the_loss_more_than_a_random_one() -> None:
    model, part = tiny.model(spread=0.3), batch()

    def random(tokens: Tokens) -> Any:
        noise = nn.gaussian(model, tokens, 0, 0)
        size = nn.total_norm(noise.values())
        return {k: 2.0 * z / size for k, z in noise.items()}, {}

    plain, noisy = nn.perturbed_loss(model, [part], random)
    _, worst = nn.perturbed_loss(model, [part], lambda t: Vaccine()._perturb(model, t))
    assert worst - plain > 5 * abs(noisy - plain)


# ---- what it says


def test_the_log_tells_both_losses_and_what_became_of_the_perturbation() -> None:
    _, terms = Vaccine().gradient(tiny.model(), step(2), None)
    assert {name: term.weight for name, term in terms.items()} == {
        "refusal": 1.0,
        "plain": 0.0,
        "cosine": 0.0,
        "norm_ratio": 0.0,
    }
    assert terms["plain"].count == terms["refusal"].count
    assert float(terms["cosine"].sum) == pytest.approx(1.0, abs=1e-3)
    assert total(terms) == pytest.approx(float(terms["refusal"].sum) / terms["refusal"].count)


def test_the_diagnostic_measures_any_model_and_training_lowers_it() -> None:
    """Beside plain fine-tuning of as many steps: the loss under perturbation ends lower."""
    ends = []
    for rho in (0.0, 1.0):
        model = tiny.model(spread=0.3)
        loop = Loop(steps=25, batch=4, lr=0.01)
        harden(Vaccine(rho=rho, loop=loop), model, tiny.encoder(), tiny.pool(), seed=0)
        ends.append(Vaccine(rho=1.0, loop=loop).diagnostic(run_of(model), None))
    plain, hardened = ends
    assert set(plain) == {"plain_loss", "perturbed_loss", "perturbed_rise"}
    assert hardened[Vaccine.signal] < 0.8 * plain[Vaccine.signal]


def test_the_diagnostic_is_empty_without_a_selection_side() -> None:
    pool = Pool(tiny.rows(Side.DEFENDER)[Role.REFUSAL])
    assert Vaccine().diagnostic(run_of(tiny.model(), pool), None) == {}


def test_it_reads_the_released_numbers() -> None:
    whole = Vaccine()
    assert (whole.rho, whole.site) == (2.0, "attention")
    assert whole.loop == Loop(
        steps=20_000,
        batch=5,
        lr=1e-3,
        schedule="cosine",
        warmup=2000,
        weight_decay=0.1,
        decay_norms=False,
    )
    released = Vaccine(preset="released")
    assert released.n == 2000
    assert released.loop.lora is not None
    assert (released.loop.lora.rank, released.loop.lora.alpha) == (8, 4.0)
    assert Vaccine(preset="paper").site == "block"


# ---- bad input


def test_a_perturbation_lost_to_bf16_stops_the_run_and_leaves_the_model() -> None:
    model = tiny.model("llama").to(torch.bfloat16)
    before = tiny.weights(model)
    with pytest.raises(TrainingError) as caught:
        Vaccine(rho=1e-4).gradient(model, step(), None)
    said = str(caught.value)
    assert said.startswith("vaccine: lost to rounding (cosine 0.")
    assert said.endswith("); use precision: fp32 or a larger rho")
    assert tiny.same(tiny.weights(model), before)
    assert all(p.requires_grad for p in model.parameters())


def test_compiled_layers_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Vaccine(loop=Loop(compile_layers=True)).rows(tiny.pool(), 0)
    assert str(caught.value) == (
        "vaccine.loop.compile_layers: a compiled layer does not see what is added inside it; "
        "turn it off"
    )


def test_a_pool_without_refusals_is_told() -> None:
    pool = Pool(tiny.rows(Side.DEFENDER)[Role.BENIGN])
    with pytest.raises(DataError) as caught:
        harden(Vaccine(loop=LOOP), tiny.model(), tiny.encoder(), pool, seed=0)
    assert str(caught.value).startswith("vaccine of role refusal, side defender: no rows; add a ")
