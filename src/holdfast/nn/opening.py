"""States where the answer begins: what the model has made of the prompt when it starts to speak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data.tokens import collate
from holdfast.nn.states import blocks, forward

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example
    from holdfast.data.tokens import Encoder

PART = 16
"""Prompts in one pass."""


def opening_states(
    model: PreTrainedModel,
    encoder: Encoder,
    rows: Sequence[Example],
    layers: Sequence[int] | None = None,
    *,
    final_norm: bool = True,
) -> Tensor:
    """Give the states at each prompt's last token, which emits the first answer token.

    Args:
        layers: blocks, counted from 1; None means all.
        final_norm: whether the last of all blocks is taken after the final norm, or as it adds to
            the stream.

    Returns:
        [len(layers), N, H] in fp32, on the CPU.
    """
    layers = range(1, len(blocks(model)) + 1) if layers is None else layers
    found: list[list[Tensor]] = [[] for _ in layers]
    coded = [encoder.encode(row.prompt, None, row.system) for row in rows]
    for first in range(0, len(coded), PART):
        tokens = collate(coded[first : first + PART], encoder.pad_id)
        here = torch.tensor([row.start - 1 for row in tokens.rows])

        def see(number: int, h: Tensor, here: Tensor = here) -> None:
            for place, layer in enumerate(layers):
                if number + 1 == layer:
                    own = h[torch.arange(len(here)), here.to(h.device)]
                    found[place].append(own.float().cpu())

        with torch.no_grad():
            forward(model, tokens, see=see, final_norm=final_norm)
    return torch.stack([torch.cat(parts) for parts in found])
