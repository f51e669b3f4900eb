"""A damaged checkpoint is dropped, and a run that is stopped keeps the step it was in."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.train.test_hardening import Stop, stopping

from holdfast.api import Loop
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.testing import tiny
from holdfast.train import harden
from holdfast.train import loop as looped

LOOP = Loop(steps=6, batch=3, lr=0.01, checkpoint_every=2)


def hardened(work: Path | None, progress: object = None, loop: Loop = LOOP) -> dict:
    model = tiny.model()
    encoder = tiny.encoder()
    harden(RefusalSFT(loop=loop), model, encoder, tiny.pool(), seed=0, work=work, progress=progress)
    return tiny.weights(model)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.safetensors", lambda old: old[:-9] + bytes([old[-9] ^ 1]) + old[-8:]),
        ("state.safetensors", lambda old: old[:100]),
        ("state.safetensors", lambda old: b""),
        ("state.json", lambda old: old.replace(b'"flops": ', b'"flops": 1')),
        ("state.json", lambda old: b"{"),
        ("state.json", lambda old: b"[]"),
    ],
)
def test_a_damaged_checkpoint_is_dropped_and_its_steps_taken_again(
    tmp_path: Path, name: str, damage: object
) -> None:
    whole = hardened(None)
    with pytest.raises(Stop):
        hardened(tmp_path, stopping("refusal_sft", 5))
    (path,) = tmp_path.glob(f"*/step-*/{name}")
    path.write_bytes(damage(path.read_bytes()))
    steps: list[int] = []

    again = hardened(tmp_path, lambda _part, done, _all: steps.append(done))

    assert steps == [1, 2, 3, 4, 5, 6, 0]  # the last: measuring
    assert tiny.same(again, whole)


def test_ctrl_c_ends_the_step_and_keeps_it(tmp_path: Path) -> None:
    loop = LOOP.with_(checkpoint_every=200)
    steps: list[int] = []

    def interrupting(_part: str, done: int, _all: int) -> None:
        steps.append(done)

    class Hit(RefusalSFT):
        pass

    model = tiny.model()
    calls = 0

    def hit(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)

    handle = model.register_forward_pre_hook(hit)
    body = model.get_decoder().register_forward_pre_hook(hit)
    with pytest.raises(KeyboardInterrupt):
        harden(
            RefusalSFT(loop=loop), model, tiny.encoder(), tiny.pool(),
            seed=0, work=tmp_path, progress=interrupting,
        )  # fmt: skip
    handle.remove()
    body.remove()
    kept = [path.name for path in tmp_path.glob("*/step-*")]
    assert kept == [f"step-{steps[-1]:08d}"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = hardened(tmp_path, loop=loop)
    assert tiny.same(again, hardened(None))


def test_checkpoints_also_go_by_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = looped.Pauses(200)
    assert not pauses.due(1, False)
    monkeypatch.setattr(looped.time, "monotonic", lambda: 1e12)
    assert pauses.due(2, False)
    assert not pauses.due(3, False)
