"""Lisa: whose turn it is, what it is pulled to, and the same bits where a run continues."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import Loop, Run, registry
from holdfast.data.example import Role
from holdfast.testing import tiny
from holdfast.train import tune

LOOP = Loop(steps=9, batch=2, lr=0.01, checkpoint_every=2).model_dump()


def made(**fields: Any) -> Any:
    return registry.make("defence", {"lisa": {"loop": LOOP} | fields}, "test")


class Stop(KeyboardInterrupt):
    """An interruption."""


def tuned(method: Any, work: Path | None = None, stop: int | None = None) -> Any:
    model = tiny.model()

    def progress(_name: str, done: int, _of: int) -> None:
        if done == stop:
            raise Stop

    encoder, rows, pool = tiny.encoder(), tiny.customer(), tiny.pool()
    with contextlib.suppress(Stop):
        tune(method, model, encoder, rows, pool, seed=0, work=work, progress=progress)
    return tiny.weights(model)


def test_without_refusals_and_pull_it_is_plain_fine_tuning_bit_for_bit() -> None:
    plain = registry.make("defence", {"plain_tuning": {"loop": LOOP}}, "test")
    assert tiny.same(tuned(made(align_steps=0, rho=0.0)), tuned(plain))
    assert not tiny.same(tuned(made(align_steps=1, user_steps=2, rho=0.0)), tuned(plain))


def test_a_run_begins_with_refusals_and_blocks_take_turns() -> None:
    method = made(align_steps=2, user_steps=3)
    assert [method.is_aligning(step) for step in range(7)] == [
        True, True, False, False, False, True, True,
    ]  # fmt: skip


def test_the_pull_is_half_rho_times_the_squared_distance_to_the_other_blocks_end() -> None:
    method = made(align_steps=1, user_steps=2, rho=0.5, free=0.0)
    model, encoder = tiny.model(), tiny.encoder()
    run = Run(model, encoder, tiny.pool(), 0)
    params = nn.trainable(model)
    state = method.begin(run, params, method.setup(run))
    batch = {
        role: encoder.batch(tiny.rows(n=2)[Role.REFUSAL]) for role in (Role.TASK, Role.REFUSAL)
    }
    method.on_step(0, state)
    with torch.no_grad():
        for p in params.values():
            p.add_(0.1)  # what the alignment block did
    method.on_step(1, state)
    term = method.loss(model, batch, state)["pull"]
    assert float(term.sum.detach()) == 0.0
    with torch.no_grad():
        for p in params.values():
            p.add_(0.2)
    term = method.loss(model, batch, state)["pull"]
    number = sum(p.numel() for p in params.values())
    assert float(term.sum.detach()) == pytest.approx(0.04 * number, rel=1e-3)
    assert (term.weight, term.once, term.count) == (0.25, True, 1.0)
    method.on_step(2, state)
    method.on_step(3, state)  # back to refusals: pulled to where the customer's block ended: here
    assert float(method.loss(model, batch, state)["pull"].sum.detach()) == 0.0


def test_the_pull_begins_after_a_tenth_of_the_steps() -> None:
    method = made(loop=LOOP | {"steps": 20})
    model = tiny.model()
    run = Run(model, tiny.encoder(), tiny.pool(), 0)
    state = method.begin(run, nn.trainable(model), method.setup(run))
    pulls = []
    for step in range(4):
        method.on_step(step, state)
        pulls.append(state.pulling)
    assert pulls == [False, False, True, True]


@pytest.mark.parametrize("stop", [1, 3, 4, 7, 8])
@pytest.mark.parametrize("turns", [(2, 3), (1, 1)])
def test_it_continues_to_the_same_bits_whatever_block_it_was_stopped_in(
    stop: int, turns: tuple[int, int], tmp_path: Path
) -> None:
    method = made(align_steps=turns[0], user_steps=turns[1], rho=5.0, free=0.0)
    whole = tuned(method)
    tuned(method, tmp_path, stop)
    assert tiny.same(tuned(method, tmp_path), whole)
