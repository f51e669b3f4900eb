"""The only forward passes that training makes: hidden states, log-probabilities, the trigger.

Shapes: B rows, T padded length, L blocks, H hidden width, V vocabulary, K trigger vectors. A batch
is padded (`Tokens`, states [B, T, H]) or packed (`Packed`, N tokens end to end, states [N, H]).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from holdfast.data.tokens import IGNORE, Row, Tokens
from holdfast.errors import ModelError
from holdfast.nn.entropy import summed_nll
from holdfast.nn.head import head_parts, is_plain_head, logit_cap, logits_of
from holdfast.nn.packing import Packed, Segments, attending, insert_packed, pack, pack_for
from holdfast.nn.passes import through

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


Place = Literal["after_user_tag", "after_bos", "before_bos", "before_response"]


class FlopMeter:
    """Counts the FLOPs of the passes made while it is on.

    A forward pass costs 2 x parameters x tokens (padding not counted), its backward pass twice
    that, or once where only inputs need a gradient. Attention's own products and element-wise
    work are left out (docs/adr/0003: about 1 % of an 8B model at some hundred tokens a row).
    """

    def __init__(self) -> None:
        self.total = 0.0

    @contextmanager
    def on(self) -> Generator[FlopMeter]:
        """Count what happens inside."""
        token = _METER.set(self)
        try:
            yield self
        finally:
            _METER.reset(token)


_METER: ContextVar[FlopMeter | None] = ContextVar("meter", default=None)


def _count(weights: int, tokens: float, model: PreTrainedModel, inputs_need_grad: bool) -> None:
    meter = _METER.get()
    if meter is None:
        return
    passes = 1.0
    if torch.is_grad_enabled():
        if any(p.requires_grad for p in model.parameters()):
            passes = 3.0
        elif inputs_need_grad:
            passes = 2.0
    meter.total += 2.0 * weights * tokens * passes


def embedding_width(model: PreTrainedModel) -> int:
    """Give the numbers in one input embedding."""
    weight = cast("Tensor", model.get_input_embeddings().weight)
    return weight.shape[1]


def context(model: PreTrainedModel) -> int | None:
    """Give the tokens of the longest row the model was made for, or None where it does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def blocks(model: PreTrainedModel) -> ModuleList:
    """Give the decoder blocks: the one module list of length `num_hidden_layers` in the body."""
    depth = model.config.get_text_config().num_hidden_layers
    for module in body(model).modules():
        if isinstance(module, ModuleList) and len(module) == depth:
            return module
    raise ModelError("model", f"no list of {depth} decoder blocks", "use a decoder-only model")


def body(model: PreTrainedModel) -> Module:
    """Give the model without its head; of one that also sees, the text's part alone."""
    inner = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    while hasattr(inner, "lm_head"):  # Llama 4's decoder is itself a model with a head
        inner = inner.model
    return inner


def _body_size(model: PreTrainedModel) -> int:
    return sum(p.numel() for p in blocks(model).parameters())


def place_of(row: Row, place: Place) -> int:
    """Give the index in `row.ids` before which a trigger goes."""
    if place == "after_user_tag":
        return row.content[0]
    if place == "after_bos":
        return 1 if row.bos else 0
    if place == "before_bos":
        return 0
    return row.start


def insert(
    embeds: Tensor, mask: Tensor, at: Tensor, trigger: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Insert K vectors into every row before column `at`.

    Args:
        embeds: [B, T, H] input embeddings.
        mask: [B, T], 1 where real.
        at: [B] columns.
        trigger: [K, H], or [B, K, H] for a vector a row.

    Returns:
        embeds [B, T+K, H], mask [B, T+K], and `back [B, T]`: the column each old one moved to.
    """
    rows, width, hidden = embeds.shape
    trigger = trigger.expand(rows, *trigger.shape[-2:])
    k = trigger.shape[1]
    columns = torch.arange(width + k, device=embeds.device).expand(rows, -1)
    at = at[:, None]
    inside = (columns >= at) & (columns < at + k)
    old = torch.where(columns < at, columns, columns - k).clamp(0, width - 1)
    new = (columns - at).clamp(0, k - 1)
    kept = embeds.gather(1, old[..., None].expand(-1, -1, hidden))
    put = trigger.to(embeds.dtype).gather(1, new[..., None].expand(-1, -1, hidden))
    spread = torch.where(inside[..., None], put, kept)
    wider = torch.where(inside, torch.ones_like(old), mask.gather(1, old))
    straight = torch.arange(width, device=embeds.device).expand(rows, -1)
    return spread, wider, torch.where(straight < at, straight, straight + k)


@dataclass
class States:
    """What one pass gives: `layers` (L tensors [B, T, H], the last after the final norm; empty
    if not asked for) and `last [B, T, H]`, aligned with the tokens whether or not a trigger was
    inserted. [N, H] each where the batch is packed; layers [M, H] where `at` chose M tokens.
    """

    layers: list[Tensor]
    last: Tensor


Batch = Tokens | Packed
See = Callable[[int, Tensor], None]


def forward(
    model: PreTrainedModel,
    tokens: Batch,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
    layers: bool = False,
    final_norm: bool = True,
    at: Tensor | None = None,
    see: See | None = None,
) -> States:
    """Run the body once; a trigger's columns are inserted before and cut out after.

    Token i of the result is token i of `tokens`; only its absolute position has moved by K after
    the insertion point (docs/fidelity/sgt.md, row 3). `final_norm=False` gives the last layer
    before the final norm.

    Args:
        at: packed only: indices [M] of the tokens whose layers are kept.
        see: called with each block's number and states as they appear, in place of keeping them.

    Raises:
        ModelError: a packed batch on a model whose attention cannot be packed.
    """
    device = next(model.parameters()).device
    if not len(tokens):
        return _nothing(model, tokens, layers=layers, see=see)
    if isinstance(tokens, Packed):
        inputs, segments, back = _packed_inputs(model, tokens, trigger, place, device)
        around: Any = partial(attending, model, segments)
    else:
        if at is not None:
            raise ValueError("`at` is for packed batches")
        inputs, back = _padded_inputs(model, tokens, trigger, place, device)
        segments, around = None, nullcontext
    caught: list[Tensor] = []

    def aligned(h: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Bring states to the order of the tokens."""
        if segments is None:
            return h if back is None else h.gather(1, back[..., None].expand(-1, -1, h.shape[-1]))
        index = chosen if back is None or chosen is None else back[chosen]
        index = back if chosen is None else index
        return h[0] if index is None else h[0].index_select(0, index)

    def keep(number: int, h: Tensor) -> None:
        h = aligned(h, at)
        if see is None:
            caught.append(h)
        else:
            see(number, h)

    wanted = layers or see is not None
    decoder = blocks(model)
    seen = list(decoder)[: len(decoder) - final_norm] if wanted else []
    with _catching(seen, keep), around(), through(decoder, around):
        out = body(model)(**inputs, use_cache=False)
    if segments is not None and segments.calls < len(decoder):
        raise ModelError(
            "packing", "this architecture's attention cannot be packed", "set packing: false"
        )
    needs = trigger is not None and trigger.requires_grad
    extra = 0 if trigger is None else len(tokens) * trigger.shape[-2]
    real = sum(len(row.ids) for row in tokens.rows) + extra
    _count(_body_size(model), real, model, needs)
    if wanted and final_norm:
        keep(len(decoder) - 1, out.last_hidden_state)
    return States(caught, aligned(out.last_hidden_state))


def _nothing(model: PreTrainedModel, tokens: Batch, *, layers: bool, see: See | None) -> States:
    """Give what a pass over no rows gives (a role that a mixed micro-batch lacks): empty states."""
    shape = tuple(tokens.ids.shape)
    weight = next(model.parameters())
    none = weight.new_zeros((*shape, embedding_width(model)))
    if see is not None:
        for number in range(len(blocks(model))):
            see(number, none)
    return States([none] * len(blocks(model)) if layers and see is None else [], none)


def _padded_inputs(
    model: PreTrainedModel,
    tokens: Tokens,
    trigger: Tensor | None,
    place: Place,
    device: torch.device,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Give a padded pass's inputs and the column [B, T] each token moved to, if any did."""
    ids, mask = tokens.ids.to(device), tokens.mask.to(device)
    inputs, back = {"input_ids": ids}, None
    if trigger is not None:
        columns = [
            place_of(row, place) + offset
            for row, offset in zip(tokens.rows, tokens.offsets, strict=True)
        ]
        embeds = model.get_input_embeddings()(ids)
        embeds, mask, back = insert(embeds, mask, torch.tensor(columns, device=device), trigger)
        inputs = {"inputs_embeds": embeds}
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return inputs | {"attention_mask": mask, "position_ids": positions}, back


def _packed_inputs(
    model: PreTrainedModel,
    tokens: Packed,
    trigger: Tensor | None,
    place: Place,
    device: torch.device,
) -> tuple[dict[str, Tensor], Segments, Tensor | None]:
    """Give a packed pass's inputs, its segments, and where each token [N] moved to, if any did."""
    ids, lengths, back = tokens.ids.to(device), tokens.lengths, None
    inputs = {"input_ids": ids[None]}
    if trigger is not None:
        places = [place_of(row, place) for row in tokens.rows]
        embeds = model.get_input_embeddings()(ids)
        embeds, lengths, back = insert_packed(embeds, lengths, places, trigger)
        inputs = {"inputs_embeds": embeds[None]}
    segments = Segments(lengths)
    return inputs | {"position_ids": segments.positions.to(device)[None]}, segments, back


@contextmanager
def _catching(layers: Sequence[Module], keep: See) -> Generator[None]:
    """Hand over each block's output, whether it returns a tensor or a tuple."""

    def hook(number: int) -> Callable[[Module, Any, Any], None]:
        return lambda _module, _inputs, output: keep(
            number, output[0] if isinstance(output, tuple) else output
        )

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hidden_states(
    model: PreTrainedModel,
    tokens: Batch,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
    final_norm: bool = True,
    at: Tensor | None = None,
) -> list[Tensor]:
    """Give the output of each of the L blocks, [B, T, H] each, aligned with the tokens.

    The embedding output is not counted; the last entry is after the final norm unless
    `final_norm=False`. A packed batch gives [N, H], or [M, H] of the tokens that `at` names.
    """
    return forward(
        model, tokens, trigger=trigger, place=place, layers=True, final_norm=final_norm, at=at
    ).layers


def response_positions(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Give rows and columns [N] of all labelled positions, row by row, on the tokens' device."""
    found = (tokens.labels != IGNORE).nonzero()
    return found[:, 0], found[:, 1]


def _emitting(last: Tensor, tokens: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Give the states [N, H] that emit a labelled token, the labels [N] and their rows [N]."""
    if isinstance(tokens, Packed):
        at = (tokens.labels != IGNORE).nonzero()[:, 0]
        labels, rows = tokens.labels[at], tokens.row_of[at]
        emitting = last.index_select(0, (at - 1).to(last.device))
    else:
        rows, columns = response_positions(tokens)
        labels = tokens.labels[rows, columns]
        emitting = last[rows.to(last.device), (columns - 1).to(last.device)]
    return emitting, labels.to(last.device), rows


def generation_logits(model: PreTrainedModel, last: Tensor, tokens: Batch) -> tuple[Tensor, Tensor]:
    """Give logits [N, V] at the positions that emit a labelled token, and those labels [N].

    The head runs on these positions only. Every labelled position has a position before it.
    """
    emitting, labels, _ = _emitting(last, tokens)
    head = model.get_output_embeddings()
    _count(head.weight.numel(), len(labels), model, last.requires_grad)
    return logits_of(model, emitting), labels


def log_probs(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
) -> tuple[Tensor, Tensor]:
    """Give the log-probability [N] of each labelled token, in fp32, and its row's index [N]."""
    batch = pack(tokens.rows) if pack_for(model) else tokens
    states = forward(model, batch, trigger=trigger, place=place)
    return token_log_probs(model, states.last, batch), response_positions(tokens)[0]


def token_log_probs(model: PreTrainedModel, last: Tensor, tokens: Batch) -> Tensor:
    """Give the log-probability [N] of each labelled token from the last hidden states."""
    logits, labels = generation_logits(model, last, tokens)
    return -torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")


def nll(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
) -> tuple[Tensor, int]:
    """Give the summed negative log-likelihood of the labelled tokens and how many there are.

    Both are 0 of a batch without rows.
    """
    batch = pack(tokens.rows) if pack_for(model) else tokens
    states = forward(model, batch, trigger=trigger, place=place)
    return response_nll(model, states.last, batch)


def response_nll(model: PreTrainedModel, last: Tensor, tokens: Batch) -> tuple[Tensor, int]:
    """Give what `nll` gives from the last hidden states; a packed batch never holds all logits."""
    if not is_plain_head(model) or not isinstance(tokens, Packed):
        values = token_log_probs(model, last, tokens)
        return -values.sum(), len(values)
    emitting, labels, _ = _emitting(last, tokens)
    states, weight, bias = head_parts(model, emitting)
    _count(weight.numel(), len(labels), model, last.requires_grad)
    return summed_nll(states, weight, bias, labels, cap=logit_cap(model)), len(labels)


def per_row(values: Tensor, rows: Sequence[int] | Tensor, count: int) -> Tensor:
    """Sum [N] values by row into [count]."""
    index = torch.as_tensor(rows, device=values.device)
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, index, values)
