"""Hidden states: the only forward passes that training makes, and how far apart two models' are.

Shapes: B rows, T padded length, L blocks, H hidden width, K trigger vectors. A batch is padded
(`Tokens`, states [B, T, H]) or packed (`Packed`, N tokens end to end, states [N, H]).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Module, ModuleList

from holdfast.data.tokens import Packed, Row, Span, Tokens
from holdfast.errors import ModelError
from holdfast.nn.passes import Segments, attended, attending, batch_for, count, through

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

Place = Literal["after_user_tag", "after_bos", "before_bos", "before_response"]
"""Where a trigger is inserted into a row."""
Reduce = Literal["mean", "sum"]
Batch = Tokens | Packed
See = Callable[[int, Tensor], None]


class How(TypedDict, total=False):
    """How squared differences of states become a row's distance."""

    over_hidden: Reduce
    """Over H; the mean where not given."""
    over_tokens: Reduce
    """Over a row's matched tokens; the mean where not given."""
    relative: bool
    """Whether it is divided by the goal's own mean square at those tokens."""


def embedding_width(model: PreTrainedModel) -> int:
    """Give the numbers in one input embedding."""
    weight = cast("Tensor", model.get_input_embeddings().weight)
    return weight.shape[1]


def embedding_size(model: PreTrainedModel) -> float:
    """Give the root mean square of a model's input embeddings."""
    weight = cast("Tensor", model.get_input_embeddings().weight)
    return float(weight.detach().float().square().mean().sqrt())


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
    """Insert K vectors into every padded row before column `at`.

    Args:
        embeds: [B, T, H] input embeddings.
        mask: [B, T], 1 where real.
        at: [B] columns.
        trigger: [K, H], or [B, K, H] for a vector a row.

    Returns:
        embeds [B, T+K, H], mask [B, T+K], and `back [B, T]`: the column each old one moved to.
    """
    rows, width, hidden = embeds.shape
    flat, lengths, back = insert_packed(embeds.flatten(0, 1), [width] * rows, at.tolist(), trigger)
    wider = torch.ones(len(flat), dtype=mask.dtype, device=mask.device)
    wider[back] = mask.flatten()
    first = torch.arange(rows, device=back.device)[:, None] * lengths[0]
    wide = flat.view(rows, lengths[0], hidden)
    return wide, wider.view(rows, -1), back.view(rows, width) - first


def insert_packed(
    embeds: Tensor, lengths: Sequence[int], at: Sequence[int], trigger: Tensor
) -> tuple[Tensor, tuple[int, ...], Tensor]:
    """Insert K vectors into every packed row before its token `at`.

    Args:
        embeds: [N, H] input embeddings of rows of `lengths`.
        lengths: tokens of each of the B rows.
        at: index inside each row.
        trigger: [K, H], or [B, K, H] for a vector a row.

    Returns:
        embeds [N + B K, H], the new lengths, and `back [N]`: where each old token moved to.
    """
    device, rows = embeds.device, len(lengths)
    trigger = trigger.expand(rows, *trigger.shape[-2:])
    k = trigger.shape[1]
    sizes = torch.tensor(lengths)
    owner = torch.repeat_interleave(torch.arange(rows), sizes)
    starts, places = sizes.cumsum(0) - sizes, torch.tensor(list(at))
    number = torch.arange(len(owner))
    inside = number - starts[owner]
    back = number + k * owner + k * (inside >= places[owner])
    slots = (starts + k * torch.arange(rows) + places)[:, None] + torch.arange(k)
    order = torch.empty(len(owner) + rows * k, dtype=torch.long)
    order[back] = number
    order[slots.flatten()] = len(owner) + torch.arange(rows * k)
    both = torch.cat([embeds, trigger.to(embeds.dtype).flatten(0, 1)])
    wide = both.index_select(0, order.to(device))
    return wide, tuple(n + k for n in lengths), back.to(device)


@dataclass
class States:
    """What one pass gives: `layers` (L tensors [B, T, H], the last after the final norm; empty
    if not asked for) and `last [B, T, H]`, aligned with the tokens whether or not a trigger was
    inserted. [N, H] each where the batch is packed; layers [M, H] where `at` chose M tokens.
    """

    layers: list[Tensor]
    last: Tensor


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
    embeddings: bool = False,
) -> States:
    """Run the body once; a trigger's columns are inserted before and cut out after.

    Token i of the result is token i of `tokens`; only its absolute position has moved by K after
    the insertion point (docs/fidelity/sgt.md, row 3). `final_norm=False` gives the last layer
    before the final norm.

    Args:
        at: indices [M] of the tokens whose layers are kept; a padded batch is flat as [B * T].
        see: called with each block's number and states as they appear, in place of keeping them.
        embeddings: also call it first with number -1 and what the first block reads.

    Raises:
        ModelError: a packed batch on a model whose attention cannot be packed.
    """
    if not len(tokens):
        return _nothing(model, tokens, layers=layers, at=at, see=see, embeddings=embeddings)
    given = _given(model, tokens, trigger, place)
    caught: list[Tensor] = []

    def keep(number: int, h: Tensor) -> None:
        h = given.aligned(h, at)
        if see is None:
            caught.append(h)
        else:
            see(number, h)

    wanted = layers or see is not None
    decoder = blocks(model)
    seen = list(decoder)[: len(decoder) - final_norm] if wanted else []
    around = given.around
    entry = decoder[0] if embeddings else None
    with _catching(seen, keep, entry), around(), through(decoder, around):
        out = body(model)(**given.inputs, use_cache=False)
        if isinstance(tokens, Packed):
            attended(len(decoder))
    needs = trigger is not None and trigger.requires_grad
    extra = 0 if trigger is None else len(tokens) * trigger.shape[-2]
    real = sum(len(row.ids) for row in tokens.rows) + extra
    count(_body_size(model), real, model, needs)
    if wanted and final_norm:
        keep(len(decoder) - 1, out.last_hidden_state)
    return States(caught, given.aligned(out.last_hidden_state))


def _nothing(
    model: PreTrainedModel,
    tokens: Batch,
    *,
    layers: bool,
    at: Tensor | None,
    see: See | None,
    embeddings: bool,
) -> States:
    """Give what a pass over no rows gives (a role that a mixed micro-batch lacks): empty states."""
    weight, width, depth = next(model.parameters()), embedding_width(model), len(blocks(model))
    last = weight.new_zeros((*tokens.ids.shape, width))
    none = last if at is None else last.reshape(-1, width)
    if see is not None:
        for number in range(-embeddings, depth):
            see(number, none)
    return States([none] * depth if layers and see is None else [], last)


@dataclass
class _Given:
    """A batch as the body takes it, and the way back to the order of its tokens."""

    inputs: dict[str, Tensor]
    around: Callable[[], AbstractContextManager[None]]
    """What must hold while blocks run."""
    packed: bool
    back: Tensor | None
    """Where each token [N], or its column [B, T], moved to, if a trigger was inserted."""

    def aligned(self, h: Tensor, at: Tensor | None = None) -> Tensor:
        """Give states in the order of the tokens, or of those at the flat indices `at`."""
        if self.packed:
            index = self.back if at is None else at if self.back is None else self.back[at]
            return h[0] if index is None else h[0].index_select(0, index)
        if self.back is not None:
            h = h.gather(1, self.back[..., None].expand(-1, -1, h.shape[-1]))
        return h if at is None else h.flatten(0, 1).index_select(0, at)


def _given(model: PreTrainedModel, tokens: Batch, trigger: Tensor | None, place: Place) -> _Given:
    device = next(model.parameters()).device
    ids, places = tokens.ids.to(device), [place_of(row, place) for row in tokens.rows]
    if isinstance(tokens, Packed):
        lengths, back = tokens.lengths, None
        inputs = {"input_ids": ids[None]}
        if trigger is not None:
            embeds = model.get_input_embeddings()(ids)
            embeds, lengths, back = insert_packed(embeds, lengths, places, trigger)
            inputs = {"inputs_embeds": embeds[None]}
        segments = Segments(lengths)
        inputs["position_ids"] = segments.positions.to(device)[None]
        return _Given(inputs, partial(attending, model, segments), True, back)
    mask, back = tokens.mask.to(device), None
    inputs = {"input_ids": ids}
    if trigger is not None:
        columns = [i + offset for i, offset in zip(places, tokens.offsets, strict=True)]
        embeds = model.get_input_embeddings()(ids)
        embeds, mask, back = insert(embeds, mask, torch.tensor(columns, device=device), trigger)
        inputs = {"inputs_embeds": embeds}
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return _Given(
        inputs | {"attention_mask": mask, "position_ids": positions}, nullcontext, False, back
    )


@contextmanager
def _catching(layers: Sequence[Module], keep: See, entry: Module | None) -> Generator[None]:
    """Hand over each block's output, whether it returns a tensor or a tuple, and before that what
    `entry` reads, as number -1.
    """

    def hook(number: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: keep(
            number, output[0] if isinstance(output, tuple) else output
        )

    def first(_module: Module, inputs: tuple[Tensor, ...], options: dict[str, Tensor]) -> None:
        keep(-1, inputs[0] if inputs else options["hidden_states"])

    handles = [layer.register_forward_hook(hook(i)) for i, layer in enumerate(layers)]
    if entry is not None:
        handles.append(entry.register_forward_pre_hook(first, with_kwargs=True))
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


# ---- two models' states


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
    batch = batch_for(model, [row.cut(last) for row, (_, last) in zip(rows, spans, strict=True)])
    at = places_of(batch, spans)[0].to(next(model.parameters()).device)
    with torch.no_grad():
        return hidden_states(
            model, batch, trigger=trigger, place=place, final_norm=final_norm, at=at
        )


def states_apart(
    model: PreTrainedModel,
    batch: Tokens | Packed,
    spans: Sequence[Span],
    goal: list[Tensor],
    *,
    layers: tuple[int, int] | None = None,
    final_norm: bool = True,
    units: Sequence[Tensor] | None = None,
    **how: Unpack[How],
) -> tuple[Tensor, Tensor]:
    """Give each layer's and row's squared distance to `goal`, and the last states, in one pass.

    The layers are compared as they appear, so no second stack of states is held; an entry of
    `goal` (L tensors [M, H], of `triggered_states`) is let go when it has been used.

    Args:
        layers: the first layer compared and the one behind the last; None compares all.
        units: what each layer's and row's distance is divided by, L tensors [B]; None divides by 1.
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
            unit = None if units is None else units[number]
            apart.append(matched_distance(flat, h_t, at, owner, len(batch), unit=unit, **how))

    states = forward(model, batch, see=see, final_norm=final_norm)
    return torch.stack(apart), states.last


def matched_distance(
    student: Tensor,
    teacher: Tensor,
    at: Tensor,
    owner: Tensor,
    rows: int,
    *,
    over_hidden: Reduce = "mean",
    over_tokens: Reduce = "mean",
    relative: bool = False,
    unit: Tensor | None = None,
) -> Tensor:
    """Give ||h_s - h_t||^2 of one layer for each row, in fp32; the teacher is a constant.

    Args:
        student: [N, H] states of a packed batch.
        teacher: [M, H] states of the matched tokens only.
        at: [M] where they stand in the student's batch, each once.
        owner: [M] the row of each.
        rows: how many rows, R; one without any token gives 0.
        relative: divide by the teacher's own mean square at those tokens.
        unit: divide each row's by this, [R].

    Returns:
        [R].
    """
    count = torch.zeros(rows, device=owner.device).index_add_(
        0, owner, torch.ones(len(owner), device=owner.device)
    )
    scale = torch.ones(rows, device=owner.device)
    if over_hidden == "mean":
        scale = scale / student.shape[-1]
    if over_tokens == "mean":
        scale = scale / count.clamp(min=1)
    if relative:
        size = teacher.detach().float().square().sum(-1)
        if over_hidden == "mean":
            size = size / student.shape[-1]
        sums = torch.zeros_like(count).index_add_(0, owner, size)
        scale = scale / (sums / count.clamp(min=1)).clamp(min=1e-12)
    if unit is not None:
        scale = scale / unit
    return _Matched.apply(student, teacher.detach(), at, owner, scale)


def mean_square(states: Tensor, owner: Tensor, rows: int) -> Tensor:
    """Give the mean square over a row's matched tokens and H, [M, H] and [M] -> [rows], in fp32.

    A row without any gives 0.
    """
    size = states.float().square().mean(-1)
    sums = torch.zeros(rows, device=size.device).index_add_(0, owner, size)
    counts = torch.zeros_like(sums).index_add_(0, owner, torch.ones_like(size))
    return sums / counts.clamp(min=1)


class _Matched(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  (torch's own: what is put on it is kept)
        student: Tensor,
        teacher: Tensor,
        at: Tensor,
        owner: Tensor,
        scale: Tensor,
    ) -> Tensor:
        apart = student.index_select(0, at).float() - teacher.float()
        weight = scale[owner]
        ctx.save_for_backward(apart, at, owner, weight)
        ctx.like = (student.shape, student.dtype)
        square = torch.linalg.vecdot(apart, apart)
        return torch.zeros_like(scale).index_add_(0, owner, weight * square)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  (as above)
        *outer: Tensor,
    ) -> tuple[Tensor | None, ...]:
        apart, at, owner, weight = ctx.saved_tensors
        shape, kind = ctx.like
        found = apart.new_zeros(shape, dtype=kind)
        slope = (2 * weight * outer[0][owner])[:, None]
        found.index_copy_(0, at, (apart * slope).to(kind))
        return found, None, None, None, None
