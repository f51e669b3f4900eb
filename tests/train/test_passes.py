"""The loop's choices of how passes are run change its weights by rounding only."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import registry
from holdfast.errors import ConfigError
from holdfast.nn.passes import current
from holdfast.testing import tiny
from holdfast.train import harden

LOOP = {"steps": 3, "batch": 4, "lr": 1e-3, "micro_batch": 2}


def hardened(name: str, **changes: Any) -> dict[str, torch.Tensor]:
    """Train three steps of a defence and give the weights."""
    fields: dict[str, Any] = {"loop": LOOP | changes}
    if name == "sgt":
        stage1 = {"steps": 3, "batch": 4} | {k: v for k, v in changes.items() if k != "lora"}
        fields |= {"preset": "absolute", "stage1": stage1, "alpha_align": 0.1}
    method: Any = registry.make("defence", {name: fields}, "test")
    model = tiny.model("mistral", sliding_window=9)
    harden(method, model, tiny.encoder(), tiny.pool(), seed=0)
    return tiny.weights(model)


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "LoRA"])
@pytest.mark.parametrize("name", ["sgt", "refusal_sft", "booster"])
def test_packed_padded_and_recomputed_training_agree(name: str, lora: Any) -> None:
    start = tiny.weights(tiny.model("mistral", sliding_window=9))
    packed = hardened(name, lora=lora)
    moved = max(float((packed[k] - start[k]).abs().max()) for k in start)
    assert moved > 1e-4
    for changes in ({"packing": False}, {"checkpoint_activations": True}):
        other = hardened(name, lora=lora, **changes)
        # AdamW divides by the gradient's own size, so a rounding of it moves a weight a little.
        apart = torch.cat([(packed[k] - other[k]).flatten() for k in start])
        assert float(apart.abs().median()) <= 1e-7
        assert float(apart.square().mean().sqrt()) <= 1e-2 * moved


def test_the_loop_says_how_passes_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    inner = nn.forward

    def spy(*arguments: Any, **options: Any) -> Any:
        now = current()
        seen.add((now.packed, now.checkpointed, now.compiled))
        return inner(*arguments, **options)

    monkeypatch.setattr("holdfast.nn.head.forward", spy)
    hardened("refusal_sft", checkpoint_activations=True)
    hardened("refusal_sft", packing=False)
    assert seen == {(True, True, False), (False, False, False)}
    assert not current().packed


def test_compiled_blocks_and_an_adapter_are_refused() -> None:
    fields = {"refusal_sft": {"loop": {"compile_layers": True, "lora": {"rank": 2}}}}
    with pytest.raises(ConfigError, match=r"loop.compile_layers: does not go with lora"):
        registry.make("defence", fields, "defence")
