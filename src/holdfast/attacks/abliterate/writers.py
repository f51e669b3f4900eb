"""The matrices that write to the residual stream: attention's output and the MLP's, by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from holdfast.errors import ModelError
from holdfast.nn.states import blocks, forward

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.tokens import Tokens

LAST = (
    *("o_proj", "out_proj", "c_proj", "wo", "dense", "down_proj", "fc2", "w2"),
    *("dense_4h_to_h", "fc_out", "output_linear"),
)
"""What model libraries call the last linear map of attention and of an MLP, experts included."""

BEFORE_MLP = ("pre_feedforward_layernorm", "pre_mlp_layernorm")
AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""What they call a norm before the MLP, and one between the MLP and the stream."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A parameter whose `axis` runs over the stream's width H; `gain` [H] scales what it writes.

    The gain is that of a norm between the matrix and the stream, 1 where there is none.
    """

    name: str
    tensor: Tensor
    axis: int
    gain: Tensor | None


def writers(model: PreTrainedModel) -> list[list[Writer]]:
    """Give the writers of each block: matrices of attention and MLP, stacked experts, biases.

    Raises:
        ModelError: a block in which fewer than two matrices are found.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    width = model.config.get_text_config().hidden_size
    found = []
    for number, block in enumerate(blocks(model)):
        own = [Writer(names[id(p)], p.detach(), axis, None) for p, axis in _last(block, width)]
        for child in block.children():
            gain = _gain(block, child, width)
            for module in child.modules():
                own += [
                    Writer(names[id(p)], p.detach(), axis, gain) for p, axis in _last(module, width)
                ]
        if sum(writer.tensor.ndim > 1 for writer in own) < 2:
            raise ModelError(
                f"block {number + 1}",
                f"{len(own)} matrices found that write to the residual stream",
                "use a decoder-only model whose attention and MLP end in a linear layer",
            )
        found.append(own)
    return found


def added_by_blocks(model: PreTrainedModel, tokens: Tokens) -> list[Tensor]:
    """Give what each block adds to the stream at each real token, [N, H] in fp32.

    That is its output less its input: what all its writers write, whatever lies between.
    """
    found: list[Tensor] = []
    real = tokens.mask.bool()

    def see(
        _block: Module,
        given: tuple[Tensor, ...],
        named: dict[str, Tensor],
        output: Tensor | tuple[Tensor, ...],
    ) -> None:
        before = named["hidden_states"] if "hidden_states" in named else given[0]
        after = output[0] if isinstance(output, tuple) else output
        found.append((after.float() - before.float())[real.to(after.device)])

    handles = [block.register_forward_hook(see, with_kwargs=True) for block in blocks(model)]
    try:
        with torch.no_grad():
            forward(model, tokens)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _last(module: Module, width: int) -> Sequence[tuple[Any, int]]:
    """Give the parameters of a module that end a branch, each with its axis of width H."""
    found: list[tuple[Any, int]] = []
    for name, child in module.named_children():
        weight = getattr(child, "weight", None)
        if name in LAST and isinstance(weight, Tensor) and weight.ndim in (2, 3):
            turned = type(child).__name__ == "Conv1D"  # GPT-2 keeps [in, out]
            if weight.shape[-1 if turned else -2] == width:
                found.append((weight, -1 if turned else -2))
                if getattr(child, "bias", None) is not None:
                    found.append((child.bias, -1))
    for name, p in module.named_parameters(recurse=False):
        if name in LAST and p.ndim == 3:  # experts, stacked
            into = getattr(module, "gate_up_proj", None)
            turned = into is not None and into.shape[-2] == width and into.shape[-1] != width
            axis = -1 if turned or p.shape[-2] != width else -2
            if p.shape[axis] == width:
                found.append((p, axis))
        elif name.removesuffix("_bias") in LAST and name.endswith("_bias") and p.shape[-1] == width:
            found.append((p, -1))
    return found


def _gain(block: Module, child: Module, width: int) -> Tensor | None:
    """Give the gain [H] of the norm that a branch's output passes before it joins the stream.

    Gemma 2, GLM 4 and OLMo 2 have one. Told by its name, and by which norms the block has besides:
    the one named after attention follows it where the MLP has a norm of its own before it, or
    where nothing is normed before either.
    """
    children = dict(block.named_children())
    after_mlp = [name for name in AFTER_MLP if name in children]
    if not after_mlp:
        return None
    attends = any(
        child is part for name, part in children.items() if name.endswith(("attn", "attention"))
    )
    if not attends:
        norm = children[after_mlp[0]]
    elif "post_self_attn_layernorm" in children:  # GLM 4: `post_attention` is before the MLP
        norm = children["post_self_attn_layernorm"]
    elif any(name in children for name in BEFORE_MLP) or "input_layernorm" not in children:
        norm = children.get("post_attention_layernorm")
    else:
        norm = None
    if norm is None:
        return None
    weight = next(norm.parameters())
    with torch.no_grad():
        return norm(torch.ones(width, dtype=weight.dtype, device=weight.device)).float()
