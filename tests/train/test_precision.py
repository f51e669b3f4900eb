"""What each precision policy does to small steps, and that an interruption costs none of it.

The shares are those of a real bf16 model whatever its size: they only depend on rate and weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tests.train.test_hardening import DEFENCES, LOOP, Stop, run, stopping

from holdfast import nn
from holdfast.api import Loop, Precision
from holdfast.data.example import Role
from holdfast.defences.vaccine import Vaccine
from holdfast.nn.weights import DTYPES
from holdfast.testing import tiny
from holdfast.train import Optimiser, stochastic
from holdfast.train.loop import compute

N = 1 << 16


def weights(precision: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(N, generator=generator) * 0.02
    return {"w": drawn.to(torch.bfloat16).to(DTYPES[precision]).requires_grad_(True)}


def moved(precision: Any, lr: float, steps: int, **fields: Any) -> tuple[float, float]:
    """Give the share of N(0, 0.02) weights that moved, and the mean shift as a share of lr x steps.

    The gradient is always the same, so that AdamW's step is lr for every weight.
    """
    loop = Loop(precision=precision, lr=lr, **fields)
    params = weights(precision)
    before = params["w"].detach().clone()
    optimiser = Optimiser(params, loop, 0)
    for step in range(steps):
        optimiser.step({"w": torch.full((N,), 0.5)}, lr, step)
    shift = before.double() - params["w"].detach().double()
    return float((shift != 0).double().mean()), float(shift.mean()) / (lr * steps)


@pytest.mark.parametrize(
    ("precision", "lr", "share"),
    [
        ("fp32", 1e-5, 1.0),
        ("fp32_master", 1e-5, 1.0),
        ("bf16_pure", 1e-5, 0.156),
        ("bf16_pure", 2e-5, 0.30),
        ("bf16_pure", 1e-4, 0.88),
        ("bf16_kahan", 1e-5, 0.156),
        ("bf16_stochastic", 1e-5, 0.24),
    ],
)
def test_share_of_weights_one_step_moves(precision: str, lr: float, share: float) -> None:
    """Measured apart from this code: 15.6 %, 30 % and 88 % for bf16_pure.

    Kahan keeps the other 84 % in its memory; stochastic rounding moves a share of them by more.
    """
    assert moved(precision, lr, 1)[0] == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize(
    ("precision", "least", "most", "shift"),
    [
        ("fp32_master", 0.999, 1.0, 1.0),
        ("bf16_pure", 0.10, 0.20, 0.11),
        ("bf16_kahan", 0.999, 1.0, 1.0),
        ("bf16_stochastic", 0.999, 1.0, 1.0),
    ],
)
def test_shift_after_many_steps(precision: str, least: float, most: float, shift: float) -> None:
    share, mean = moved(precision, 1e-5, 469)
    assert least <= share <= most
    assert mean == pytest.approx(shift, abs=0.02)


def test_stochastic_rounding_is_exact_in_the_mean_and_rounds_to_a_neighbour() -> None:
    generator = torch.Generator().manual_seed(0)
    for value in (1.001, -1.001, 0.0199, -3e-5, 255.9, 1.0):
        drawn = stochastic(torch.full((100_000,), value), generator)
        assert float(drawn.double().mean()) == pytest.approx(value, rel=3e-5)
        assert len(drawn.unique()) == (1 if value == 1.0 else 2)


def test_moments_decay_under_the_rounded_policies_as_in_fp32() -> None:
    """To the nearest, 0.999 of a bf16 number is that number: the second moment would never fall."""
    for precision in ("bf16_kahan", "bf16_stochastic"):
        params = weights(precision)
        optimiser = Optimiser(params, Loop(precision=precision), 0)
        optimiser.step({"w": torch.ones(N)}, 1e-5, 0)
        for step in range(1, 301):
            optimiser.step({"w": torch.zeros(N)}, 1e-5, step)
        second = optimiser.state()["second/w"].double().mean()
        assert float(second) == pytest.approx(0.001 * 0.999**300, rel=0.01)


def test_weight_decay_pulls_toward_zero_under_every_policy() -> None:
    for precision in get_args(Precision):
        params = weights(precision)
        before = float(params["w"].detach().double().square().mean())
        loop = Loop(precision=precision, weight_decay=0.5)
        Optimiser(params, loop, 0).step({"w": torch.zeros(N)}, 0.1, 0)
        after = float(params["w"].detach().double().square().mean())
        assert after / before == pytest.approx(0.95**2, rel=2e-3)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_norms_and_biases_are_left_undecayed_where_asked(precision: Any) -> None:
    """A gradient of 0 and a first moment of 0: only the decay moves a weight, by lr x decay."""
    dtype = DTYPES[precision]
    for whole in (True, False):
        loop = Loop(precision=precision, lr=0.5, weight_decay=0.5, decay_norms=whole)
        params = {"w": torch.ones(2, 2, dtype=dtype), "gain": torch.ones(2, dtype=dtype)}
        for p in params.values():
            p.requires_grad_(True)
        Optimiser(params, loop, 0).step({k: 0 * p.detach() for k, p in params.items()}, 0.5, 0)
        assert params["w"].tolist() == [[0.75, 0.75]] * 2
        assert params["gain"].tolist() == ([0.75, 0.75] if whole else [1.0, 1.0])


def test_what_decays_says_nothing_where_nothing_does_and_else_is_in_the_key() -> None:
    kept = Loop(weight_decay=0.1)
    assert "decay_norms" not in kept.key_fields()
    assert kept.with_(decay_norms=False).key_fields() == {**kept.key_fields(), "decay_norms": False}
    assert Loop(decay_norms=False) == Loop()
    defaults = Vaccine()
    assert defaults.loop.decay_norms is False
    made = Vaccine.model_validate({"loop": {"weight_decay": 0.0}})
    assert "decay_norms" not in made.key_fields()["loop"]


def test_the_draw_hangs_on_seed_step_and_name_alone() -> None:
    def after(seed: int, step: int, name: str) -> torch.Tensor:
        params = {name: weights("bf16_stochastic")["w"]}
        loop = Loop(precision="bf16_stochastic")
        torch.rand(5)
        Optimiser(params, loop, seed).step({name: torch.ones(N)}, 1e-5, step)
        return params[name].detach()

    first = after(0, 0, "w")
    assert torch.equal(after(0, 0, "w"), first)
    for other in ((1, 0, "w"), (0, 0, "v")):
        assert not torch.equal(after(*other), first)


@pytest.mark.parametrize("precision", ["bf16_kahan", "bf16_stochastic", "bf16_pure"])
@pytest.mark.parametrize("name", ["refusal_sft", "sgt"])
def test_an_interrupted_run_ends_at_the_same_bits(
    name: str, precision: Any, tmp_path: Path
) -> None:
    defence = DEFENCES[name]
    defence = defence.with_(loop=LOOP.with_(precision=precision, lr=1e-3))
    whole, _ = run(defence, tmp_path / "whole")
    for stop in (2, 5, 7):
        with pytest.raises(Stop):
            run(defence, tmp_path / "broken", stopping(defence.name(), stop))
    again, _ = run(defence, tmp_path / "broken")
    assert tiny.same(tiny.weights(again), tiny.weights(whole))
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}


def test_under_lora_the_adapter_stays_fp32_and_is_stepped_plainly() -> None:
    params = {"layer.lora_a": torch.ones(4, requires_grad=True)}
    twin = {"layer.lora_a": torch.ones(4, requires_grad=True)}
    for some, precision in ((params, "bf16_stochastic"), (twin, "fp32")):
        optimiser = Optimiser(some, Loop(precision=precision), 0)
        for step in range(3):
            optimiser.step({"layer.lora_a": torch.ones(4)}, 1e-5, step)
    assert torch.equal(params["layer.lora_a"], twin["layer.lora_a"])


def test_a_shift_between_two_passes_is_read_under_fp32_master() -> None:
    """Autocast would keep the first pass's cast weights: Booster, SEAM and TAR shift between."""
    model = tiny.model()
    tokens = tiny.encoder().batch(tiny.rows(n=2)[Role.BENIGN])
    name = "model.layers.0.mlp.up_proj.weight"
    direction = nn.ParamVector.zeros(nn.trainable(model))
    direction[name] += 1.0

    def value() -> float:
        return nn.nll(model, tokens)[0].item()

    with compute("fp32_master", "cpu"):
        before = value()
        with nn.shifted(model, direction, 0.5):
            inside = value()
    with nn.shifted(model, direction, 0.5), compute("fp32_master", "cpu"):
        assert inside == value()
    assert inside != before
