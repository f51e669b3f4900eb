"""What asks for no gradient at a step stands still at it, and an interrupted run remembers that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.api import Loop, LoRA, Precision, Run, WeightDefence
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.t_vaccine import TVaccine
from holdfast.errors import ConfigError, TrainingError
from holdfast.testing import tiny
from holdfast.train import apply, harden
from holdfast.train.optimiser import Optimiser

POLICIES: tuple[Precision, ...] = ("fp32", "bf16_pure", "bf16_kahan", "bf16_stochastic")


class Edit(WeightDefence):
    """Makes the last norm longer."""

    by: float = 2.0
    """How many times as long."""

    def edit(self, run: Run) -> dict[str, torch.Tensor]:
        """Give the longer norm."""
        return {
            "model.norm.weight": run.model.get_parameter("model.norm.weight").detach() * self.by
        }


def pair(precision: Precision) -> dict[str, torch.Tensor]:
    kind = torch.float32 if precision == "fp32" else torch.bfloat16
    return {name: torch.ones(8, dtype=kind).requires_grad_(True) for name in "ab"}


@pytest.mark.parametrize("precision", POLICIES)
def test_neither_momentum_nor_decay_moves_what_is_frozen(precision: Precision) -> None:
    """Steps 0, 1 move both, 2 and 3 only `a`, 4 both: `b` ends where three steps take it."""
    loop = Loop(lr=0.1, weight_decay=0.1, precision=precision)
    some, alone = pair(precision), pair(precision)
    optimiser, plain = Optimiser(some, loop, 0), Optimiser(alone, loop, 0)
    for step in range(5):
        some["b"].requires_grad_(step not in (2, 3))
        before = some["b"].detach().clone()
        optimiser.step({name: torch.full((8,), 0.5) for name in some}, 0.1, step)
        assert torch.equal(some["b"], before) is (step in (2, 3))
        if step not in (2, 3):
            plain.step({name: torch.full((8,), 0.5) for name in alone}, 0.1, step)
    if precision in ("fp32", "bf16_pure"):  # the others round by a draw of the step's own
        assert torch.equal(some["b"], alone["b"])


@pytest.mark.parametrize("precision", POLICIES)
def test_a_checkpoint_keeps_each_tensors_own_count(precision: Precision) -> None:
    loop = Loop(lr=0.1, precision=precision)

    def stepped(optimiser: Optimiser, params: Any, steps: range) -> None:
        for step in steps:
            params["b"].requires_grad_(step >= 4)
            optimiser.step({name: torch.full((8,), 0.1 * step) for name in params}, 0.1, step)

    first = pair(precision)
    whole = Optimiser(first, loop, 0)
    stepped(whole, first, range(3))
    state = {name: value.clone() for name, value in whole.state().items()}
    second = {name: p.detach().clone().requires_grad_(True) for name, p in first.items()}
    again = Optimiser(second, loop, 0)
    again.restore(state, 3)
    stepped(whole, first, range(3, 8))
    stepped(again, second, range(3, 8))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_t_vaccines_frozen_layers_do_not_move_and_an_interrupted_run_ends_the_same(
    tmp_path: Path,
) -> None:
    loop = Loop(steps=8, batch=2, lr=0.01, weight_decay=0.1, checkpoint_every=4)
    method = TVaccine(layers=1, rho=0.5, measure_every=4, draw_every=4, loop=loop)
    start = tiny.weights(tiny.model())

    def stop(_part: str, done: int, _of: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    straight = tiny.model()
    harden(method, straight, tiny.encoder(), tiny.pool(), seed=0)
    with pytest.raises(KeyboardInterrupt):
        harden(
            method, tiny.model(), tiny.encoder(), tiny.pool(), seed=0, work=tmp_path, progress=stop
        )
    resumed = tiny.model()
    harden(method, resumed, tiny.encoder(), tiny.pool(), seed=0, work=tmp_path)
    assert tiny.same(tiny.weights(straight), tiny.weights(resumed))
    ends = tiny.weights(straight)
    moved = {
        int(name.split(".")[2])
        for name in ends
        if name.startswith("model.layers.") and not torch.equal(ends[name], start[name])
    }
    assert 1 <= len(moved) <= 2  # of three layers, one drawn at each of two steps


@pytest.mark.parametrize("adapter", [None, LoRA(rank=2)], ids=["full", "lora"])
def test_what_the_caller_froze_does_not_move(adapter: LoRA | None) -> None:
    model = tiny.model()
    held = "model.layers.0.self_attn.q_proj.weight"
    model.get_parameter(held).requires_grad_(False)
    before = tiny.weights(model)
    loop = Loop(steps=2, batch=3, lr=0.01, lora=adapter)
    apply(RefusalSFT(loop=loop), model, tiny.byte_tokenizer(), tiny.pool(), format="plain")
    after = tiny.weights(model)
    assert torch.equal(before[held], after[held])
    other = held.replace("q_proj", "v_proj")
    assert not torch.equal(before[other], after[other])


@pytest.mark.parametrize(
    ("defence", "line"),
    [
        (
            RefusalSFT(),
            "refusal_sft: every parameter is frozen (requires_grad is False); let some ask for a "
            "gradient",
        ),
        (
            RefusalSFT(loop=Loop(lora=LoRA(rank=2))),
            "refusal_sft: every parameter is frozen (requires_grad is False); let some ask for a "
            "gradient",
        ),
        (
            Edit(),
            "test_frozen: edits 'model.norm.weight', which is frozen (requires_grad is False); let "
            "it ask for a gradient, or use another defence",
        ),
    ],
    ids=["full", "lora", "edit"],
)
def test_a_model_that_is_frozen_altogether_is_refused(defence: Any, line: str) -> None:
    model = tiny.model().requires_grad_(False)
    before = tiny.weights(model)
    with pytest.raises(ConfigError) as caught:
        apply(defence, model, tiny.byte_tokenizer(), tiny.pool(), format="plain")
    assert str(caught.value) == line
    assert tiny.same(before, tiny.weights(model))


def test_an_edit_that_is_no_number_is_never_written() -> None:
    model = tiny.model()
    before = tiny.weights(model)
    with pytest.raises(TrainingError) as caught:
        apply(Edit(by=1e300), model, tiny.byte_tokenizer(), tiny.pool(), format="plain")
    assert str(caught.value) == (
        "test_frozen: makes numbers of 'model.norm.weight' that are not finite; lower its "
        "strength, or check its rows and models"
    )
    assert tiny.same(before, tiny.weights(model))
