"""What a pass does inside: each block's MLP output, and the block's own.

Modules are found by structure. N tokens (padded: B x T, row by row), H width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import Linear, Module

from holdfast.errors import ModelError
from holdfast.nn.passes import current
from holdfast.nn.states import Batch, blocks, embedding_width, forward

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

    def catch(number: int) -> Callable[..., None]:
        def hook(_module: Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            # Only kept here: a block may be run again in the backward pass, without this hook.
            caught[number] = output[0] if isinstance(output, tuple) else output

        return hook

    def see(number: int, h: Tensor) -> None:
        look(number, flat(h if number < 0 else caught.pop(number)), flat(h))

    handles = [mlp_of(block).register_forward_hook(catch(i)) for i, block in enumerate(decoder)]
    try:
        states = forward(model, tokens, final_norm=False, see=see, embeddings=embeddings)
    finally:
        for handle in handles:
            handle.remove()
    return flat(states.last)
