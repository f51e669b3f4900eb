"""States where the answer begins, when the prompt is read; and how alike two sets of states are."""

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
    from holdfast.nn.states import Place

PART = 16
"""Prompts in one pass."""


def opening_states(
    model: PreTrainedModel,
    encoder: Encoder,
    rows: Sequence[Example],
    layers: Sequence[int] | None = None,
    *,
    final_norm: bool = True,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
) -> Tensor:
    """Give the states at each prompt's last token, which emits the first answer token.

    Args:
        layers: blocks, counted from 1; None means all.
        final_norm: whether the last of all blocks is taken after the final norm, or as it adds to
            the stream.
        trigger: vectors [K, H] that are inserted at `place` of each prompt; None inserts none.

    Returns:
        [len(layers), N, H] in fp32, on the CPU.
    """
    layers = range(1, len(blocks(model)) + 1) if layers is None else layers
    found: list[list[Tensor]] = [[] for _ in layers]
    coded = [encoder.asked(row) for row in rows]
    for first in range(0, len(coded), PART):
        tokens = collate(coded[first : first + PART], encoder.pad_id)
        here = torch.tensor([row.start - 1 for row in tokens.rows])

        def see(number: int, h: Tensor, here: Tensor = here) -> None:
            for place, layer in enumerate(layers):
                if number + 1 == layer:
                    own = h[torch.arange(len(here)), here.to(h.device)]
                    found[place].append(own.float().cpu())

        with torch.no_grad():
            forward(model, tokens, trigger=trigger, place=place, see=see, final_norm=final_norm)
    return torch.stack([torch.cat(parts) for parts in found])


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Give the linear CKA of two sets of states, [N, H], [N, H'] -> [0, 1], in float64.

    |X'Y|^2 / (|X'X| |Y'Y|) of centred X, Y (Kornblith et al. 2019); 1 for equal sets up to rotation
    and scale; 0 where one of them does not vary. Taken over N x N products, so that H may be large.
    """
    x, y = (h.double() - h.double().mean(0) for h in (first, second))
    k, m = x @ x.T, y @ y.T
    size = float(k.norm() * m.norm())
    return float((k * m).sum()) / size if size > 0 else 0.0
