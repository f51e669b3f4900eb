"""Every defence made of terms under `batching: mixed`, down to one row at a time."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.api import Loop, LossDefence, registry
from holdfast.errors import ConfigError
from holdfast.testing import tiny
from holdfast.train import harden

NAMES = [
    name
    for name in registry.names("defence")
    if issubclass(registry.find("defence", name), LossDefence)
]
LOOP = {"steps": 3, "batch": 2, "lr": 0.01, "eps": 1e-4, "batching": "mixed"}


def hardened(name: str, micro: int | None, lora: Any) -> Any:
    fields: dict[str, Any] = {"loop": LOOP | {"micro_batch": micro, "lora": lora}}
    kind = registry.find("defence", name)
    if "stage1" in kind.model_fields:
        fields["stage1"] = Loop(steps=2, batch=2)
    method: Any = registry.make("defence", {name: fields}, "test")
    model = tiny.model("llama")
    harden(method, model, tiny.encoder(), tiny.pool(), seed=0)
    return tiny.weights(model)


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_a_role_that_a_micro_batch_lacks_breaks_nothing(name: str, lora: Any) -> None:
    try:
        parts = hardened(name, 1, lora)
    except ConfigError as error:
        assert name == "rep_noise", name
        assert str(error).endswith("use batching: stratified")  # noqa: PT017
        return
    assert all(bool(tensor.isfinite().all()) for tensor in parts.values())
    if registry.find("defence", name).separable:
        whole = hardened(name, None, lora)
        for key, tensor in whole.items():
            assert (tensor - parts[key]).abs().max().item() < 2e-4, key
