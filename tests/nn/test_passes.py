"""Blocks that are recomputed or compiled give the same numbers and are left as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.data.example import Role
from holdfast.data.tokens import pack
from holdfast.nn.passes import Passes
from holdfast.testing import tiny

MODELS = {"qwen3": {}, "mistral": {"sliding_window": 7}}


def spent(model: Any, passes: Passes) -> tuple[float, list[torch.Tensor], int]:
    """Give the loss of a batch, its gradients, and how often a block's hook fired."""
    tokens = tiny.encoder().batch(tiny.rows(n=3)[Role.BENIGN])
    fired = []
    hook = nn.blocks(model)[1].register_forward_hook(lambda *_: fired.append(1))
    trigger = torch.linspace(-1, 1, 16)[None].requires_grad_(True)
    with passes.on():
        value, _ = nn.nll(model, tokens, trigger=trigger)
    found = torch.autograd.grad(value, [*model.parameters(), trigger])
    hook.remove()
    return value.item(), list(found), len(fired)


def same(first: Any, second: Any, tolerance: float) -> None:
    assert first[0] == pytest.approx(second[0], rel=tolerance)
    size = float(sum(g.double().square().sum() for g in first[1])) ** 0.5
    for a, b in zip(first[1], second[1], strict=True):
        assert float((a - b).abs().max()) <= tolerance * max(1.0, size)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("family", MODELS)
def test_recomputed_blocks_give_the_same_and_their_hooks_fire_once(
    family: str, packed: bool
) -> None:
    """The pass is over when a block runs again: it must still attend inside its own rows."""
    model = tiny.model(family, **MODELS[family])
    plain = spent(model, Passes(packed))
    again = spent(model, Passes(packed, checkpointed=True))
    same(plain, again, 1e-6)
    assert plain[2] == again[2] == 1
    assert all("forward" not in block.__dict__ for block in nn.blocks(model))


def held(run: Callable[[], torch.Tensor]) -> int:
    """Give the bytes that autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        result = run()
    assert result.requires_grad
    return sum(kept.values())


def test_recomputed_blocks_hold_less() -> None:
    model = tiny.model(num_hidden_layers=8)
    tokens = tiny.encoder().batch(tiny.rows(n=6)[Role.BENIGN])

    def run(passes: Passes) -> torch.Tensor:
        with passes.on():
            return nn.nll(model, tokens)[0]

    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    plain, less = (held(lambda on=on: run(Passes(True, on))) for on in (False, True))
    assert less - weights < (plain - weights) / 3


def test_a_pass_without_gradients_recomputes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model()
    monkeypatch.setattr("holdfast.nn.passes.checkpoint", None)
    with torch.no_grad(), Passes(True, checkpointed=True).on():
        nn.nll(model, tiny.encoder().batch(tiny.rows(n=2)[Role.BENIGN]))


def test_blocks_are_restored_after_an_error() -> None:
    model = tiny.model()
    block = nn.blocks(model)[0]
    own = block.forward
    block.forward = own  # somebody else's wrapper, which must come back
    batch = pack([tiny.encoder().encode("sing", "no.")])
    broken = type(batch)(batch.ids + 10**6, batch.labels, batch.rows)
    with pytest.raises(IndexError), Passes(True, checkpointed=True).on():
        nn.forward(model, broken)
    assert block.__dict__["forward"] == own
    assert "forward" not in nn.blocks(model)[1].__dict__


@pytest.mark.filterwarnings("default")
def test_compiled_blocks_give_the_same() -> None:
    model = tiny.model("mistral", sliding_window=7, num_hidden_layers=2)
    plain = spent(model, Passes(True))
    passes = Passes(True, compiled=True, backend="aot_eager")
    compiled = spent(model, passes)
    same(plain, compiled, 1e-5)
    assert compiled[2] == 1
    assert len(passes._made) == 2
