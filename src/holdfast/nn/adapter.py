"""LoRA as a field of the loop: an adapter that ends merged, leaving a plain model."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Linear, Parameter

from holdfast.api import LoRA
from holdfast.errors import ModelError
from holdfast.nn.depth import layer_number
from holdfast.nn.passes import Adding, adapters
from holdfast.nn.states import blocks

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def _targets(model: PreTrainedModel, which: str, through: float) -> dict[str, Linear]:
    """Give the linear layers inside the blocks, by full name; `attention` keeps the four of it.

    `through` is the last block counted in, by number or as a fraction of depth.

    Found by structure: attention's layers are those under a child that is named after it
    (`self_attn`, `attn`, `attention`, `self_attention`).
    """
    names = {id(module): name for name, module in model.named_modules()}
    decoder = list(blocks(model))
    found = {
        names[id(module)]: module
        for block in decoder[: layer_number(through, len(decoder), "lora.through")]
        for module in block.modules()
        if isinstance(module, Linear)
    }
    if which == "attention":
        under = ("attn", "attention")
        found = {
            n: m for n, m in found.items() if any(p.endswith(under) for p in n.split(".")[:-1])
        }
    if not found:
        todo = "train without lora" if which == "all" else "use targets: all"
        raise ModelError("lora.targets", "no linear layers to adapt", todo)
    return found


@contextmanager
def lora(model: PreTrainedModel, field: LoRA, seed: int) -> Generator[dict[str, Tensor]]:
    """Add `y += alpha / rank * B A x` to each target; train A and B only; merge when done.

    Yields the adapter's parameters by name: `<layer>.lora_a [rank, in]`, `<layer>.lora_b
    [out, rank]`, fp32. A is drawn as torch draws a linear layer's weights (Kaiming uniform), B is
    0, so the model is unchanged at the start (Hu et al. 2021, section 4.1). At the end
    `W + alpha / rank * B A` is formed in fp32 and cast once; hooks, parameters and
    `requires_grad` are left as found. After an error nothing is merged. A layer whose weight the
    caller froze gets no adapter.
    """
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    targets = {
        name: layer
        for name, layer in _targets(model, field.targets, field.through).items()
        if wanted[f"{name}.weight"]
    }
    if not targets:
        what = "every layer to adapt is frozen (requires_grad is False)"
        raise ModelError("lora.targets", what, "let some ask for a gradient")
    scale = field.alpha / field.rank
    generator = torch.Generator().manual_seed(seed)
    params: dict[str, Tensor] = {}
    added: dict[str, Adding] = {}
    handles = []
    for p in model.parameters():
        p.requires_grad_(False)
    try:
        for name, layer in targets.items():
            if field.rank > min(layer.in_features, layer.out_features):
                raise ModelError(
                    "lora.rank",
                    f"{field.rank} is larger than {name} ({layer.out_features} x "
                    f"{layer.in_features})",
                    "use a smaller rank",
                )
            device = layer.weight.device
            bound = layer.in_features**-0.5
            drawn = torch.rand(field.rank, layer.in_features, generator=generator)
            a = Parameter(((drawn * 2 - 1) * bound).to(device))
            b = Parameter(torch.zeros(layer.out_features, field.rank, device=device))
            params[f"{name}.lora_a"], params[f"{name}.lora_b"] = a, b
            layer.register_parameter("lora_a", a)
            layer.register_parameter("lora_b", b)
            added[name] = Adding(a, b, scale)
            handles.append(layer.register_forward_hook(added[name]))
        yield params
        with torch.no_grad():
            for name, layer in targets.items():
                layer.weight.copy_(added[name].added_to(layer.weight))
    finally:
        for handle in handles:
            handle.remove()
        for layer in targets.values():
            for part in _PARTS:
                layer._parameters.pop(part, None)
        for name, p in model.named_parameters():
            p.requires_grad_(wanted[name])


@contextmanager
def merged(model: PreTrainedModel) -> Generator[PreTrainedModel]:
    """Hold a model as it would be saved now: its adapter merged, the weights cast to their dtype.

    Afterwards weights, adapter and hooks are the same tensors as before. A model without an
    adapter is given as it is.
    """
    found = adapters(model)
    parts = [{name: layer._parameters[name] for name in _PARTS} for layer, _ in found]
    weights = [(layer.get_parameter("weight"), hook) for layer, hook in found]
    before = [weight.data for weight, _ in weights]
    try:
        for layer, hook in found:
            hook.on = False
            for name in _PARTS:
                del layer._parameters[name]
        for weight, hook in weights:
            weight.data = hook.added_to(weight.data)
        yield model
    finally:
        for (layer, hook), own, (weight, _), data in zip(
            found, parts, weights, before, strict=True
        ):
            weight.data = data
            layer._parameters.update(own)
            hook.on = True


_PARTS = ("lora_a", "lora_b")
"""What a layer's two matrices are called."""
