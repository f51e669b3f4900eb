"""The only forward passes that training makes: hidden states, log-probabilities, the trigger.

Shapes: B rows, T padded length, L blocks, H hidden width, V vocabulary, K trigger vectors.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from holdfast.data.tokens import IGNORE, Row, Tokens
from holdfast.errors import ModelError

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


Place = Literal["after_user_tag", "after_bos", "before_bos", "before_response"]


class FlopMeter:
    """Counts the FLOPs of the passes made while it is on.

    A forward pass costs 2 x parameters x tokens (padding not counted), its backward pass twice
    that, or once where only inputs need a gradient. Attention's own products and element-wise
    work are left out (source: ecosystem notes 4.2; about 1 % of an 8B model at these lengths).
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


def blocks(model: PreTrainedModel) -> ModuleList:
    """Give the decoder blocks: the one module list of length `num_hidden_layers`."""
    depth = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, ModuleList) and len(module) == depth:
            return module
    raise ModelError("model", f"no list of {depth} decoder blocks", "use a decoder-only model")


def body(model: PreTrainedModel) -> Module:
    """Give the model without its head."""
    return model.get_decoder() if hasattr(model, "get_decoder") else model.base_model


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
    inserted.
    """

    layers: list[Tensor]
    last: Tensor


def forward(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
    layers: bool = False,
    final_norm: bool = True,
) -> States:
    """Run the body once; a trigger's columns are inserted before and cut out after.

    Token i of the result is token i of `tokens`; only its absolute position has moved by K after
    the insertion point (register 9.D row 3, `natural`). `final_norm=False` gives the last layer
    before the final norm.
    """
    device = next(model.parameters()).device
    ids, mask = tokens.ids.to(device), tokens.mask.to(device)
    back = None
    extra = 0
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if trigger is not None:
        columns = [
            place_of(row, place) + offset
            for row, offset in zip(tokens.rows, tokens.offsets, strict=True)
        ]
        embeds = model.get_input_embeddings()(ids)
        at = torch.tensor(columns, device=device)
        embeds, mask, back = insert(embeds, mask, at, trigger)
        inputs = {"inputs_embeds": embeds}
        extra = len(tokens) * trigger.shape[-2]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    caught: list[Tensor] = []
    with _catching(blocks(model), caught, layers):
        out = body(model)(**inputs, attention_mask=mask, position_ids=positions, use_cache=False)
    last = out.last_hidden_state
    needs = trigger is not None and trigger.requires_grad
    real = sum(len(row.ids) for row in tokens.rows) + extra
    _count(_body_size(model), real, model, needs)
    if layers and final_norm:
        caught[-1] = last
    if back is not None:
        index = back[..., None]
        caught = [h.gather(1, index.expand(-1, -1, h.shape[-1])) for h in caught]
        last = last.gather(1, index.expand(-1, -1, last.shape[-1]))
    return States(caught, last)


@contextmanager
def _catching(layers: ModuleList, caught: list[Tensor], wanted: bool) -> Generator[None]:
    """Catch each block's output, whether it returns a tensor or a tuple."""

    def keep(_module: Module, _inputs: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep) for layer in layers] if wanted else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hidden_states(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
    final_norm: bool = True,
) -> list[Tensor]:
    """Give the output of each of the L blocks, [B, T, H] each, aligned with the tokens.

    The embedding output is not counted; the last entry is after the final norm unless
    `final_norm=False`.
    """
    return forward(
        model, tokens, trigger=trigger, place=place, layers=True, final_norm=final_norm
    ).layers


def response_positions(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Give rows and columns [N] of all labelled positions, row by row, on the tokens' device."""
    found = (tokens.labels != IGNORE).nonzero()
    return found[:, 0], found[:, 1]


def generation_logits(
    model: PreTrainedModel, last: Tensor, tokens: Tokens
) -> tuple[Tensor, Tensor]:
    """Give logits [N, V] at the positions that emit a labelled token, and those labels [N].

    The head runs on these positions only. Every labelled position has a position before it.
    """
    rows, columns = response_positions(tokens)
    labels = tokens.labels[rows, columns].to(last.device)
    emitting = last[rows.to(last.device), (columns - 1).to(last.device)]
    head = model.get_output_embeddings()
    logits = head(emitting)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if cap:
        logits = cap * torch.tanh(logits / cap)
    _count(head.weight.numel(), len(labels), model, last.requires_grad)
    return logits, labels


def log_probs(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
) -> tuple[Tensor, Tensor]:
    """Give the log-probability [N] of each labelled token, in fp32, and its row's index [N]."""
    states = forward(model, tokens, trigger=trigger, place=place)
    return token_log_probs(model, states.last, tokens), response_positions(tokens)[0]


def token_log_probs(model: PreTrainedModel, last: Tensor, tokens: Tokens) -> Tensor:
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
    """Give the summed negative log-likelihood of the labelled tokens and how many there are."""
    values, _ = log_probs(model, tokens, trigger=trigger, place=place)
    return -values.sum(), len(values)


def per_row(values: Tensor, rows: Sequence[int] | Tensor, count: int) -> Tensor:
    """Sum [N] values by row into [count]."""
    index = torch.as_tensor(rows, device=values.device)
    return torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, index, values)
