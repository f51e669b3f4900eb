"""A LoRA adapter in peft's form, merged into the weights it was made for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Linear

from holdfast.errors import ModelError
from holdfast.nn.files import ADAPTER, ADAPTER_CONFIG, some

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
}
"""Settings of a plain adapter: what else there may be is not merged here."""


def merge_adapter(model: PreTrainedModel, folder: Path, where: str = "adapter") -> None:
    """Add an adapter to a model's weights in place: W + alpha / rank * B A, formed in fp32.

    Raises:
        ModelError: it is no plain LoRA, or not of this model's layers; the model is as it was.
    """
    config = _config(folder, where)
    rank, alpha = float(config["r"]), float(config["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    held = load_file(folder / ADAPTER)
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules(prefix="base_model.model")
        if isinstance(module, Linear)
    }
    names = {_layer(name) for name in held}
    left = sorted(name for name in names if name not in layers)
    if left:
        raise ModelError(
            where, f"has tensors for {some(left)}, no layers of its model", "name its own base"
        )
    sums: list[tuple[Linear, Tensor]] = []
    for name in sorted(names):
        pair = [held.get(f"base_model.model.{name}.lora_{one}.weight") for one in "AB"]
        a, b = pair
        weight = layers[name].weight
        if a is None or b is None or (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise ModelError(
                where, f"does not fit layer '{name}' of its model", "name its own base"
            )
        sums.append((layers[name], b.float() @ a.float()))
    with torch.no_grad():
        for layer, product in sums:
            whole = layer.weight.float() + scale * product.to(layer.weight.device)
            layer.weight.copy_(whole.to(layer.weight.dtype))


def _config(folder: Path, where: str) -> dict[str, Any]:
    """Read an adapter's settings.

    Raises:
        ModelError: they cannot be read, or are not those of a plain LoRA.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        kind = str(config["peft_type"])
        float(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(where, f"its config cannot be read ({error})", "copy it again") from None
    odd = sorted(name for name, plain in _PLAIN.items() if config.get(name) not in plain)
    if kind != "LORA" or odd:
        raise ModelError(
            where, f"is no plain LoRA ({', '.join(odd) or kind})", "merge it with peft, name that"
        )
    return config


def _layer(name: str) -> str:
    """Give the layer that a tensor of an adapter belongs to."""
    return name.removeprefix("base_model.model.").rpartition(".lora_")[0] or name
