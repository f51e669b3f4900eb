"""States of a model beside those it started with: one stack of code for all that compare the two.

Layer k is the state after k blocks, 1 to L. Only chosen tokens are ever given, as [M, H], so that
padding and other rows cannot enter; a pass ends behind the last layer that is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.data.tokens import Packed, Span, Tokens
from holdfast.nn.passes import attended, batch_for, count
from holdfast.nn.states import Batch, blocks, forward
from holdfast.nn.vectors import holding

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


class _EnoughError(Exception):
    """The last layer that was asked for has been seen."""


def layer_states(
    model: PreTrainedModel,
    tokens: Tokens,
    spans: Sequence[Span],
    layers: Sequence[int],
    *,
    final_norm: bool = True,
    see: Callable[[int, Tensor], None] | None = None,
    emit: Sequence[Span] | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """Give the chosen tokens' states after each of `layers`, [M, H] each, row by row.

    The pass ends behind the last of them, before any head, unless `emit` needs its end. It is
    packed where the training loop asks for it and the attention allows it: the same numbers.

    Args:
        spans: for each row, the tokens chosen.
        layers: ascending numbers, 1 to L.
        final_norm: give layer L after the final norm, as Hugging Face's `hidden_states` does.
        see: called with each layer's number and states as they appear, in place of keeping them.
        emit: for each row, tokens whose final states [N, H] (after the norm) are given as well.

    Raises:
        ModelError: attention that was packed and cannot be.
    """
    batch = batch_for(model, tokens)
    device = next(model.parameters()).device
    depth, last = len(blocks(model)), max(layers)
    early = len(tokens) > 0 and emit is None and (last < depth or not final_norm)
    pick = _picker(batch, spans, device)
    kept: list[Tensor] = []

    def keep(number: int, h: Tensor) -> None:
        k = number + 1
        if k in layers and see is not None:
            see(k, pick(h))
        elif k in layers:
            kept.append(pick(h))
        if early and k == last:
            if isinstance(batch, Packed):
                attended(k)
            raise _EnoughError

    try:
        end = forward(model, batch, see=keep, final_norm=final_norm).last
    except _EnoughError:
        size = sum(p.numel() for block in list(blocks(model))[:last] for p in block.parameters())
        count(size, sum(len(row.ids) for row in tokens.rows), model, inputs_need_grad=False)
        return kept, None
    return kept, None if emit is None else _picker(batch, emit, device)(end)


def response_states(
    model: PreTrainedModel,
    parts: Sequence[Tokens],
    layers: Sequence[int],
    *,
    final_norm: bool = True,
) -> list[Tensor]:
    """Give all response tokens' states after each of `layers`, [M, H] each, over all batches."""
    seen = []
    for tokens in parts:
        spans = [(row.start, len(row.ids)) for row in tokens.rows]
        seen.append(layer_states(model, tokens, spans, layers, final_norm=final_norm)[0])
    return [torch.cat(each) for each in zip(*seen, strict=True)]


def owners(spans: Sequence[Span]) -> Tensor:
    """Give the row [M] of each chosen token."""
    sizes = torch.tensor([b - a for a, b in spans], dtype=torch.long)
    return torch.repeat_interleave(torch.arange(len(spans)), sizes)


def _picker(
    batch: Batch, spans: Sequence[Span], device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Give a function that takes the chosen tokens' states out of a layer's."""
    inside = torch.tensor([i for a, b in spans for i in range(a, b)], dtype=torch.long)
    rows = owners(spans)
    starts = batch.starts if isinstance(batch, Packed) else batch.offsets
    columns = (torch.tensor(starts, dtype=torch.long)[rows] + inside).to(device)
    if isinstance(batch, Packed):
        return lambda h: h.index_select(0, columns)
    rows = rows.to(device)
    return lambda h: h[rows, columns]


def starting_model(model: PreTrainedModel, adapted: bool) -> PreTrainedModel:
    """Give what stands for the model as it is now: a frozen copy, or where only an adapter is to
    be trained the model itself, to be read inside `without_adapter`.
    """
    return model if adapted else frozen_copy(model)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Give a copy that takes no gradient and follows nothing.

    A trainer may have put a `forward` of its own on the model; a copy of that would run the
    original's weights, and the distance to the copy would stay 0.
    """
    made = copy.deepcopy(model)
    made.__dict__.pop("forward", None)
    return made.requires_grad_(False).eval()


@contextmanager
def constant_weights(model: PreTrainedModel) -> Generator[None]:
    """Have no parameter ask for a gradient inside; those that did ask for one again afterwards."""
    asking = [p for p in model.parameters() if p.requires_grad]
    for p in asking:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in asking:
            p.requires_grad_(True)


@contextmanager
def as_it_started(
    model: PreTrainedModel, state: object, sources: Mapping[str, Mapping[str, Tensor]]
) -> Generator[PreTrainedModel | None]:
    """Give the model as it was before hardening, or None where nobody kept it.

    That is `state.teacher` if it is a copy, else `model` holding the weights `sources["start"]`;
    inside, `model` is not to be used.
    """
    teacher = getattr(state, "teacher", None)
    if teacher is not None and teacher is not model:
        yield teacher
    elif "start" in sources:
        with holding(model, sources["start"]) as start:
            yield start
    else:
        yield None
