"""A model's plain states against a frozen one's triggered states, at the same tokens.

Shapes: B rows, M matched tokens of all rows, L blocks, H width, K trigger vectors, N or [B, T]
tokens of a packed or padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.data.tokens import Row, Tokens, collate
from holdfast.nn.distance import matched_distance
from holdfast.nn.packing import Packed, pack, pack_for
from holdfast.nn.states import Place, forward, hidden_states

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

Span = tuple[int, int]


def places_of(batch: Tokens | Packed, spans: Sequence[Span]) -> tuple[Tensor, Tensor]:
    """Give where each matched token stands in the flat batch, and its row: [M], [M].

    `spans[r]` is the first matched token of row r and the one behind the last. A padded batch is
    flat as [B * T].
    """
    owner = [r for r, (first, last) in enumerate(spans) for _ in range(first, last)]
    inside = [i for first, last in spans for i in range(first, last)]
    if isinstance(batch, Packed):
        begin = list(batch.starts)
    else:
        width = batch.ids.shape[1]
        begin = [r * width + offset for r, offset in enumerate(batch.offsets)]
    at = [begin[r] + i for r, i in zip(owner, inside, strict=True)]
    return torch.tensor(at, dtype=torch.long), torch.tensor(owner, dtype=torch.long)


def triggered_states(
    model: PreTrainedModel,
    rows: Sequence[Row],
    spans: Sequence[Span],
    trigger: Tensor | None,
    *,
    place: Place = "after_user_tag",
    final_norm: bool = True,
) -> list[Tensor]:
    """Give the states of the matched tokens with the trigger inserted: L tensors [M, H], constants.

    Rows are cut behind the last matched token, whose state no later one changes.

    Args:
        trigger: [K, H]; None gives the plain states.
        final_norm: take the last block after the final norm.
    """
    short = [row.cut(last) for row, (_, last) in zip(rows, spans, strict=True)]
    device = next(model.parameters()).device
    with torch.no_grad():
        if pack_for(model):
            packed = pack(short)
            at = places_of(packed, spans)[0].to(device)
            return hidden_states(
                model, packed, trigger=trigger, place=place, final_norm=final_norm, at=at
            )
        padded = collate(short, 0)  # masks come from lengths: any id fills
        at = places_of(padded, spans)[0].to(device)
        kept: list[Tensor] = []
        forward(
            model,
            padded,
            trigger=trigger,
            place=place,
            final_norm=final_norm,
            see=lambda _number, h: kept.append(h.flatten(0, 1).index_select(0, at)),
        )
        return kept


def states_apart(
    model: PreTrainedModel,
    batch: Tokens | Packed,
    spans: Sequence[Span],
    goal: list[Tensor],
    *,
    layers: tuple[int, int] | None = None,
    final_norm: bool = True,
    **how: Any,
) -> tuple[Tensor, Tensor]:
    """Give each layer's and row's squared distance to `goal`, and the last states, in one pass.

    The layers are compared as they appear, so no second stack of states is held; an entry of
    `goal` (L tensors [M, H], of `triggered_states`) is let go when it has been used.

    Args:
        layers: the first layer compared and the one behind the last; None compares all.
        how: reductions, as `matched_distance` takes them; means over H and a row's tokens.

    Returns:
        distances [L', B] in fp32, last states [N, H] or [B, T, H].
    """
    first, last = layers or (0, len(goal))
    device = goal[0].device
    at, owner = (index.to(device) for index in places_of(batch, spans))
    apart: list[Tensor] = []

    def see(number: int, h: Tensor) -> None:
        if first <= number < last:
            h_t, goal[number] = goal[number], h.new_empty(0)
            flat = h if isinstance(batch, Packed) else h.flatten(0, 1)
            apart.append(matched_distance(flat, h_t, at, owner, len(batch), **how))

    states = forward(model, batch, see=see, final_norm=final_norm)
    return torch.stack(apart), states.last
