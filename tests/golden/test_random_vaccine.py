"""The Gaussian control: its size, its seeds, its gradient against rows run alone in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.nn.test_perturb import batch, by_row, compare, rows_loss

from holdfast import nn
from holdfast.api import Loop, Run
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import Tokens
from holdfast.defences.random_vaccine import Noise, RandomVaccine, scaled
from holdfast.defences.vaccine import Vaccine
from holdfast.errors import ConfigError, DataError, TrainingError
from holdfast.nn.passes import packed_passes
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import harden


def step(cuts: int = 4) -> dict[Role, list[Tokens]]:
    encoder, rows = tiny.encoder(), tiny.rows(n=4)[Role.REFUSAL]
    return {Role.REFUSAL: [encoder.batch(rows[i : i + cuts]) for i in range(0, 4, cuts)]}


def test_both_sizes_worked_by_hand() -> None:
    """(3, 4) is 5 long: length 10 is (6, 8); variance 4 is (6, 8) as well."""
    for rho, scale in ((10.0, "norm"), (4.0, "variance")):
        found = scaled({0: torch.tensor([3.0]), 1: torch.tensor([4.0])}, rho, scale)  # type: ignore[arg-type]
        assert (float(found[0]), float(found[1])) == (pytest.approx(6.0), pytest.approx(8.0))


def test_it_is_as_long_as_vaccines_perturbation_and_points_elsewhere() -> None:
    model, part = tiny.model(spread=0.3), batch()
    noise = RandomVaccine(rho=1.5)._noise(model, part, Noise(0))
    worst, _ = Vaccine(rho=1.5)._perturb(model, part)
    assert float(nn.total_norm(noise.values())) == pytest.approx(1.5, rel=1e-5)
    assert float(nn.total_norm(worst.values())) == pytest.approx(1.5, rel=1e-5)
    dot = sum(float((noise[k] * worst[k]).sum()) for k in noise)
    assert abs(dot) < 0.1 * 1.5**2


def test_its_entries_have_the_variance_the_paper_says() -> None:
    noise = RandomVaccine(preset="paper", rho=4.0)._noise(tiny.model(), batch(1), Noise(0))
    assert torch.stack(list(noise.values())).std() == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("scale", ["norm", "variance"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cuts", [4, 2, 1])
def test_the_gradient_is_the_twins(cuts: int, packed: bool, scale: Any) -> None:
    model = tiny.model("llama", spread=0.3).double()
    method = RandomVaccine(rho=0.3, scale=scale)
    with packed_passes(packed):
        found, terms = method.gradient(model, step(cuts), Noise(5, 2))
    parts = step(cuts)[Role.REFUSAL]
    eps = {}
    for number, part in enumerate(parts):
        noise = nn.gaussian(model, part, 5, 2)
        size = torch.cat([z.flatten() for z in noise.values()]).norm()
        for layer, z in noise.items():
            own = z * (0.3 / size) if scale == "norm" else z * 0.3**0.5
            for row, piece in enumerate(by_row(part, own, packed=False)):
                eps[number, row, layer] = piece
    value, count = rows_loss(model, parts, lambda *at: eps[at], "attention")
    params = dict(model.named_parameters())
    grads = torch.autograd.grad(value / count, list(params.values()))
    assert total(terms) == pytest.approx(float(value.detach()) / count, rel=2e-6)
    compare(found, dict(zip(params, grads, strict=True)))


def test_every_step_and_seed_has_its_own_noise() -> None:
    model, method = tiny.model(), RandomVaccine()
    state = Noise(0)
    ends = []
    for seed, at in ((0, 0), (0, 0), (0, 1), (1, 1)):
        state.seed = seed
        method.on_step(at, state)
        ends.append(method._noise(model, batch(1), state)[0])
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[2], ends[3])


def test_the_diagnostic_shows_noise_beside_the_worst_case() -> None:
    run = Run(tiny.model(spread=0.3), tiny.encoder(), tiny.pool(), 0)
    found = RandomVaccine().diagnostic(run, None)
    assert set(found) == {"plain_loss", "noisy_loss", "perturbed_loss"}
    assert found["perturbed_loss"] > found["noisy_loss"]
    assert found["perturbed_loss"] == Vaccine().diagnostic(run, None)["perturbed_loss"]
    assert RandomVaccine.signal == ""
    run.pool = Pool(tiny.rows(Side.DEFENDER)[Role.REFUSAL])
    assert RandomVaccine().diagnostic(run, None) == {}


def test_it_has_vaccines_defaults() -> None:
    first, second = RandomVaccine(), Vaccine()
    assert (first.rho, first.site, first.loop) == (second.rho, second.site, second.loop)


def test_the_released_trainers_noise_is_the_papers_bit_for_bit() -> None:
    """Its hook adds variance ** (1/2) x randn to the attention's output; the rest is the script."""
    released = RandomVaccine.model_validate({"preset": "released"})
    paper = RandomVaccine.model_validate({"preset": "paper"})
    assert released.with_(n=None, loop=paper.loop) == paper
    assert released.loop.with_(lora=None) == paper.loop
    model, found = tiny.model("llama"), []
    for method in (released, paper):
        state = method.setup(Run(model, tiny.encoder(), tiny.pool(), 0))
        found.append(method.gradient(model, step(), state)[0])
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_noise_lost_to_bf16_stops_the_run() -> None:
    with pytest.raises(TrainingError) as caught:
        RandomVaccine(rho=1e-4).gradient(tiny.model("llama").to(torch.bfloat16), step(), Noise(0))
    said = str(caught.value)
    assert said.startswith("random_vaccine: lost to rounding (cosine 0.")
    assert said.endswith("); use precision: fp32 or a larger rho")


def test_compiled_layers_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        RandomVaccine(loop=Loop(compile_layers=True)).rows(tiny.pool(), 0)
    assert str(caught.value) == (
        "random_vaccine.loop.compile_layers: a compiled layer does not see what is added inside "
        "it; turn it off"
    )


def test_a_pool_without_refusals_is_told() -> None:
    pool = Pool(tiny.rows(Side.DEFENDER)[Role.BENIGN])
    with pytest.raises(DataError) as caught:
        harden(RandomVaccine(), tiny.model(), tiny.encoder(), pool, seed=0)
    said = "random_vaccine of role refusal, side defender: no rows; add a "
    assert str(caught.value).startswith(said)
