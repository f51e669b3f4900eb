"""Packed passes: rows end to end in one long row without padding, none seeing another.

Packing leaks silently in plain transformers: a cache or a mask of ones makes every row read the
rows before it. Attention here is therefore our own, registered under `NAME`, which is told where
rows begin and sees nothing else. Shapes: N tokens of B rows, K trigger vectors, H width.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from holdfast.data.tokens import IGNORE, Row
from holdfast.errors import ModelError
from holdfast.nn.passes import current

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

NAME = "holdfast_packed"
"""What our attention is called inside transformers."""


@dataclass(frozen=True)
class Packed:
    """Rows end to end: `ids [N]`, `labels [N]` (IGNORE where no response), and the rows."""

    ids: Tensor
    labels: Tensor
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Give each row's number of tokens."""
        return tuple(len(row.ids) for row in self.rows)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Give the index of each row's first token."""
        return tuple(accumulate(self.lengths[:-1], initial=0))

    @cached_property
    def row_of(self) -> Tensor:
        """Give each token's row, [N]."""
        sizes = torch.tensor(self.lengths, dtype=torch.long)
        return torch.repeat_interleave(torch.arange(len(self)), sizes)


def pack(rows: Sequence[Row]) -> Packed:
    """Lay rows end to end; labels are the response's ids, IGNORE elsewhere. There may be none."""
    ids = [i for row in rows for i in row.ids]
    labels = [i for row in rows for i in (*[IGNORE] * row.start, *row.ids[row.start :])]
    return Packed(
        torch.tensor(ids, dtype=torch.long), torch.tensor(labels, dtype=torch.long), tuple(rows)
    )


def pack_for(model: PreTrainedModel) -> bool:
    """Say whether passes of this model are packed here: asked for, and exact for its attention."""
    return current().packed and packable(model)


def packable(model: PreTrainedModel) -> bool:
    """Say whether every block's attention is one that ours replaces exactly.

    Not so for code that reads no registered attention, for state-space and chunked layers, for
    capped attention scores, and for learned sinks.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [])
    sinks = any("sink" in name for name, _ in model.named_parameters())
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and kinds <= {"full_attention", "sliding_attention"}
        and not getattr(config, "attn_logit_softcapping", None)
        and not sinks
    )


@dataclass
class Segments:
    """Where rows begin and end in a packed pass, and how often our attention was asked."""

    lengths: tuple[int, ...]
    calls: int = 0
    _bounds: dict[torch.device, Tensor] = field(default_factory=dict)

    def cumulative(self, device: torch.device) -> Tensor:
        """Give the B + 1 bounds as int32, [B+1]."""
        if device not in self._bounds:
            bounds = list(accumulate(self.lengths, initial=0))
            self._bounds[device] = torch.tensor(bounds, dtype=torch.int32, device=device)
        return self._bounds[device]

    @cached_property
    def positions(self) -> Tensor:
        """Give each token's position in its own row, [N]."""
        return torch.cat([torch.arange(n) for n in self.lengths])


_NOW: ContextVar[Segments | None] = ContextVar("segments", default=None)


@contextmanager
def attending(model: PreTrainedModel, segments: Segments) -> Generator[None]:
    """Have `model` attend inside `segments` only; its configuration is restored afterwards.

    The setting lives in the configuration, so two models that share one must not run at once.
    """
    if _NOW.get() is segments:
        yield
        return
    _register(current().compiled)
    configs: dict[int, Any] = {
        id(module.config): module.config
        for module in model.modules()
        if hasattr(getattr(module, "config", None), "_attn_implementation")
    }
    before = [(config, config._attn_implementation) for config in configs.values()]
    token = _NOW.set(segments)
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in before:  # the outer one first: its setter writes into inner ones
            config._attn_implementation = name
        _NOW.reset(token)


@cache
def _register(compiled: bool) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    # A compiler must not look inside: what it would find there changes with every pass.
    ours = torch.compiler.disable(_attention) if compiled else _attention
    AttentionInterface.register(NAME, ours)
    AttentionMaskInterface.register(NAME, lambda *_a, **_k: None)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend causally inside each row: query [1, heads, N, D], keys, values -> [1, N, heads, D]."""
    segments = _NOW.get()
    odd = [name for name in ("softcap", "s_aux", "position_bias") if others.get(name) is not None]
    if segments is None or attention_mask is not None or odd or query.shape[0] != 1:
        raise ModelError(
            type(module).__name__,
            f"attention that cannot be packed ({', '.join(odd) or 'a mask'})",
            "set packing: false",
        )
    segments.calls += 1
    window = sliding_window if sliding_window and max(segments.lengths) > sliding_window else None
    half = (torch.bfloat16, torch.float16)
    if query.is_cuda and not dropout:
        if torch.is_autocast_enabled("cuda"):
            kind = torch.get_autocast_dtype("cuda")
            query, key, value = query.to(kind), key.to(kind), value.to(kind)
        if query.dtype in half and query.shape[-1] <= 256:
            return _varlen(query, key, value, segments, scaling, window)[None], None
    shared = query.shape[1] // key.shape[1]
    if shared > 1:  # written out: CPU kernels without it fall back to a slower one
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    how: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    lengths = segments.lengths
    parts = []
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        mask = _window(q.shape[2], window, q.device)
        part = scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, **how)
        parts.append(part.transpose(1, 2))
    return torch.cat(parts, dim=1), None


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Give the mask of a causal window, [T, T]; None where it cuts nothing."""
    if window is None or length <= window:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril() & ones.triu(1 - window)


@cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend by CUDA's variable-length kernel: [N, heads, D]; torch 2.11's shares no keys."""
    from torch.nn.attention.varlen import varlen_attn

    known = _parameters(varlen_attn)
    options: dict[str, Any] = {"scale": scaling, "window_size": (window - 1 if window else -1, 0)}
    shared = query.shape[1] // key.shape[1]
    if shared > 1 and "enable_gqa" in known:
        options["enable_gqa"] = True
    elif shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    bounds, longest = segments.cumulative(query.device), max(segments.lengths)
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    out: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)
    return out


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
