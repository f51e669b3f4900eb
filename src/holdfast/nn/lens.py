"""What a pass does inside: each block's MLP output, and what each block would already say.

Modules are found by structure. N tokens (padded: B x T, row by row), H width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Linear, Module

from holdfast.data.tokens import Tokens
from holdfast.errors import ModelError
from holdfast.nn.entropy import CHUNK, summed_nll
from holdfast.nn.head import head_parts, is_plain_head, logit_cap, logits_of
from holdfast.nn.packing import pack, pack_for
from holdfast.nn.passes import current
from holdfast.nn.states import Batch, _count, _emitting, blocks, body, embedding_width, forward

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

Look = Callable[[int, Tensor, Tensor], None]


def mlp_of(block: Module) -> Module:
    """Give a block's MLP: the one child with linear layers that is not named after attention.

    Raises:
        ModelError: there is none, or more than one.
    """
    found = [
        child
        for name, child in block.named_children()
        if not name.endswith(("attn", "attention"))
        and any(isinstance(module, Linear) for module in child.modules())
    ]
    if len(found) != 1:
        raise ModelError(
            type(block).__name__, f"{len(found)} MLPs in a block", "use a dense decoder-only model"
        )
    return found[0]


def final_norm(model: PreTrainedModel) -> Module:
    """Give the norm between the last block and the head: the body's last child of width H alone.

    Raises:
        ModelError: the body has no such child.
    """
    width = model.config.get_text_config().hidden_size
    found = []
    for child in body(model).children():
        own = list(child.parameters())
        if own and all(p.shape == (width,) for p in own):
            found.append(child)
    if not found:
        raise ModelError("model", "no final norm", "use a decoder-only model that has one")
    return found[-1]


def inside(
    model: PreTrainedModel, tokens: Batch, look: Look, *, embeddings: bool = False
) -> Tensor:
    """Run the body once and show what appears inside; give the last states after the norm, [N, H].

    Args:
        tokens: a padded batch (N = B x T, row by row) or a packed one.
        look: called once a block, as it is done, with its number, its MLP's output [N, H] and its
            own output [N, H] (the last block's before the final norm).
        embeddings: also call it first with number -1 and what the first block reads, twice.

    Raises:
        ModelError: blocks are compiled, which hides their insides; a block without one MLP.
    """
    if current().compiled:
        raise ModelError("passes", "compiled blocks hide their insides", "leave compile_layers off")
    decoder = list(blocks(model))
    if not len(tokens):  # no block runs
        none = forward(model, tokens).last.reshape(-1, embedding_width(model))
        for number in range(-embeddings, len(decoder)):
            look(number, none, none)
        return none
    caught: dict[int, Tensor] = {}

    def flat(h: Tensor) -> Tensor:
        return h.reshape(-1, h.shape[-1])

    def catch(number: int) -> Callable[[Module, Any, Any], None]:
        def hook(_module: Module, _inputs: Any, output: Any) -> None:
            # Only kept here: a block may be run again in the backward pass, without this hook.
            caught[number] = output[0] if isinstance(output, tuple) else output

        return hook

    def first(_module: Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        h = flat(inputs[0] if inputs else options["hidden_states"])
        look(-1, h, h)

    handles = [mlp_of(block).register_forward_hook(catch(i)) for i, block in enumerate(decoder)]
    if embeddings:
        handles.append(decoder[0].register_forward_pre_hook(first, with_kwargs=True))
    try:
        states = forward(
            model, tokens, final_norm=False, see=lambda i, h: look(i, flat(caught.pop(i)), flat(h))
        )
    finally:
        for handle in handles:
            handle.remove()
    return flat(states.last)


def head_nll(model: PreTrainedModel, states: Tensor, labels: Tensor) -> Tensor:
    """Give the sum of -log p(label) of normed states, [N, H] and [N] -> [], never all logits.

    States of several layers belong in one call: the head's gradient [V, H] then exists once. A head
    that is no plain linear layer is run as it is, `CHUNK` at a time.
    """
    head = model.get_output_embeddings()
    _count(head.weight.numel(), len(labels), model, states.requires_grad)
    if is_plain_head(model):
        scaled, weight, bias = head_parts(model, states)
        return summed_nll(scaled, weight, bias, labels, cap=logit_cap(model))
    some = max(1, CHUNK.get(states.device.type, CHUNK["cpu"]) // (4 * head.weight.shape[0]))
    value = states.new_zeros((), dtype=torch.float32)
    for h, own in zip(states.split(some), labels.split(some), strict=True):
        logits = logits_of(model, h).float()
        value = value + torch.nn.functional.cross_entropy(logits, own, reduction="sum")
    return value


def depth_nll(model: PreTrainedModel, tokens: Tokens) -> tuple[Tensor, int]:
    """Give -log p(label) summed over labelled tokens and blocks, in fp32, and how many: N x L.

    A block's states pass the final norm and the head; the last block's are the model's own
    output, normed once. One chunked product serves all blocks, so neither the logits nor a head's
    gradient for each block are ever held.
    """
    batch = pack(tokens.rows) if pack_for(model) else tokens
    norm, depth = final_norm(model), len(blocks(model))
    kept: list[Tensor] = []

    def see(number: int, states: Tensor) -> None:
        emitting = _emitting(states, batch)[0]
        kept.append(emitting if number == depth - 1 else norm(emitting))

    last = forward(model, batch, see=see).last
    labels = _emitting(last, batch)[1].repeat(depth)
    return head_nll(model, torch.cat(kept), labels), len(labels)
