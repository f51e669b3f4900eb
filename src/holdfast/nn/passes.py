"""How forward passes are run: packed, with the adapter off, recomputed, compiled, and counted.

Two things hold for every pass made inside a `with` and travel through no argument, so that a method
reads the same under all of them: how passes are run (`Passes.on`), and who counts their FLOPs
(`FlopMeter.on`). The training loop enters both around each step; outside it, passes are plain and
padded.

Packed passes lay rows end to end without padding, none seeing another. Packing leaks silently in
plain transformers: a cache or a mask of ones makes every row read the rows before it. Attention
here is therefore our own, registered under `NAME`; it knows where rows begin and sees nothing else.
Shapes: N tokens of B rows, H width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from holdfast.data.tokens import Packed, Row, Tokens, collate, pack
from holdfast.errors import ModelError

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.api import Loop

NAME = "holdfast_packed"
"""What our attention is called inside transformers."""


# ---- counted


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


def add_flops(flops: float) -> None:
    """Add to the meter that is on, if one is."""
    meter = _METER.get()
    if meter is not None:
        meter.total += flops


def count(weights: int, tokens: float, model: PreTrainedModel, inputs_need_grad: bool) -> None:
    """Count a pass of `tokens` through `weights` parameters of a model.

    Args:
        inputs_need_grad: whether what goes in needs a gradient where no weight does.
    """
    if _METER.get() is None:
        return
    passes = 1.0
    if torch.is_grad_enabled():
        if any(p.requires_grad for p in model.parameters()):
            passes = 3.0
        elif inputs_need_grad:
            passes = 2.0
    add_flops(2.0 * weights * tokens * passes)


# ---- chosen


@dataclass
class Passes:
    """The choices, and the compiled blocks, which live as long as this object.

    A block is compiled once, with the hooks it bears then: make a new object after adding an
    adapter.
    """

    packed: bool = False
    checkpointed: bool = False
    compiled: bool = False
    backend: str = "inductor"
    _made: dict[int, Callable[..., Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, loop: Loop) -> Passes:
        """Give the choices of a loop."""
        return cls(loop.packing, loop.checkpoint_activations, loop.compile_layers)

    @contextmanager
    def on(self) -> Generator[None]:
        """Run the passes inside this way."""
        token = _PASSES.set(self)
        try:
            yield
        finally:
            _PASSES.reset(token)

    def forward_of(self, block: Module) -> Callable[..., Any]:
        """Give a block's forward function, compiled for any length if that is asked for."""
        if not self.compiled:
            return block.forward
        if id(block) not in self._made:
            self._made[id(block)] = torch.compile(block.forward, dynamic=True, backend=self.backend)
        return self._made[id(block)]


_PASSES: ContextVar[Passes] = ContextVar("passes", default=Passes())  # noqa: B039  (never changed)


def current() -> Passes:
    """Give the choices that hold here."""
    return _PASSES.get()


def packed_passes(on: bool) -> AbstractContextManager[None]:
    """Have `nll`, `log_probs` and methods that ask `pack_for` pack their rows inside."""
    return Passes(packed=on).on()


@contextmanager
def through(
    decoder: Iterable[Module], again: Callable[[], AbstractContextManager[None]]
) -> Generator[None]:
    """Have the blocks run as chosen; hooks on a block stay outside and fire once.

    Args:
        again: what must hold when a block runs once more in the backward pass, where the pass
            itself is over.
    """
    now = current()
    recomputed = now.checkpointed and torch.is_grad_enabled()
    if not (recomputed or now.compiled):
        yield
        return
    before = [(block, block.__dict__.get("forward")) for block in decoder]
    try:
        for block, _ in before:
            inner = now.forward_of(block)
            block.forward = partial(_recomputed, inner, again) if recomputed else inner
        yield
    finally:
        for block, own in before:
            block.__dict__.pop("forward", None)
            if own is not None:
                block.forward = own


def _recomputed(
    inner: Callable[..., Any],
    again: Callable[[], AbstractContextManager[None]],
    *inputs: Any,  # noqa: ANN401  (a block's own)
    **options: Any,  # noqa: ANN401  (as above)
) -> Any:  # noqa: ANN401  (as above)
    """Run a block and keep only its inputs for the backward pass."""

    def run(*inputs: object, **options: object) -> object:
        with again():
            return inner(*inputs, **options)

    return checkpoint(run, *inputs, use_reentrant=False, **options)


# ---- with the adapter off


class Adding:
    """A forward hook of `lora` that adds the low-rank product; it can be switched off."""

    def __init__(self, a: Tensor, b: Tensor, scale: float) -> None:
        self._a, self._b, self._scale = a, b, scale
        self.on = True

    def __call__(self, _module: Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Give a layer's output with the adapter's added."""
        if not self.on:
            return output
        low = inputs[0].to(self._a.dtype) @ self._a.T
        return output + (self._scale * (low @ self._b.T)).to(output.dtype)

    def added_to(self, weight: Tensor) -> Tensor:
        """Give the layer's weight with the product in it: formed in fp32, cast once."""
        with torch.no_grad():
            return (weight.float() + self._scale * (self._b @ self._a)).to(weight.dtype)


@contextmanager
def without_adapter(model: PreTrainedModel) -> Generator[PreTrainedModel]:
    """Hold the model as it was before `lora`: its adapter adds nothing inside.

    A model without an adapter is given as it is, so a copy and an adapted model can both stand as
    the frozen one. Build no graph inside that is to train the adapter.
    """
    found = adapters(model)
    for _, hook in found:
        hook.on = False
    try:
        yield model
    finally:
        for _, hook in found:
            hook.on = True


def adapters(model: PreTrainedModel) -> list[tuple[Module, Adding]]:
    """Give each layer with an adapter that is on, and what adds it."""
    return [
        (module, hook)
        for module in model.modules()
        for hook in module._forward_hooks.values()
        if isinstance(hook, Adding) and hook.on
    ]


# ---- packed


def pack_for(model: PreTrainedModel) -> bool:
    """Say whether passes of this model are packed here: asked for, and exact for its attention."""
    return current().packed and packable(model)


def batch_for(model: PreTrainedModel, rows: Tokens | Sequence[Row]) -> Tokens | Packed:
    """Lay rows out as passes of this model take them here: end to end, or padded."""
    if pack_for(model):
        return pack(rows.rows if isinstance(rows, Tokens) else rows)
    return rows if isinstance(rows, Tokens) else collate(rows, 0)  # masks come from lengths


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


_SEGMENTS: ContextVar[Segments | None] = ContextVar("segments", default=None)


def attended(times: int) -> None:
    """Make sure, inside a packed pass, that our attention was asked at least so often.

    Raises:
        ModelError: it was not, so rows may have seen each other.
    """
    segments = _SEGMENTS.get()
    if segments is None or segments.calls < times:
        raise ModelError(
            "packing", "this architecture's attention cannot be packed", "set packing: false"
        )


@contextmanager
def attending(model: PreTrainedModel, segments: Segments) -> Generator[None]:
    """Have `model` attend inside `segments` only; its configuration is restored afterwards.

    The setting lives in the configuration, so two models that share one must not run at once.
    """
    if _SEGMENTS.get() is segments:
        yield
        return
    _register(current().compiled)
    configs: dict[int, Any] = {
        id(module.config): module.config
        for module in model.modules()
        if hasattr(getattr(module, "config", None), "_attn_implementation")
    }
    before = [(config, config._attn_implementation) for config in configs.values()]
    token = _SEGMENTS.set(segments)
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in before:  # the outer one first: its setter writes into inner ones
            config._attn_implementation = name
        _SEGMENTS.reset(token)


@cache
def _register(compiled: bool) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    # A compiler must not look inside: what it would find there changes with every pass.
    ours = torch.compiler.disable(_attention) if compiled else _attention
    AttentionInterface.register(NAME, ours)
    AttentionMaskInterface.register(NAME, lambda *_a, **_k: None)


def _attention(
    module: Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Attend causally inside each row: query [1, heads, N, D], keys, values -> [1, N, heads, D]."""
    segments = _SEGMENTS.get()
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
def _parameters(function: Callable[..., object]) -> frozenset[str]:
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
