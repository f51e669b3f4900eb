"""From last states to words: the head's logits, and sums over them that never hold them all.

A large vocabulary is run through in chunks of positions: cross-entropy, KL divergence and entropy
are three reductions of one chunk's logits, each with its gradient by them formed beside its value.
No logit is kept for the backward pass and none is computed twice.
N positions, H hidden width, V vocabulary, C positions of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Linear, Module
from torch.nn.functional import linear

from holdfast.data.tokens import IGNORE, Packed, Tokens
from holdfast.errors import ModelError
from holdfast.nn.passes import batch_for, count
from holdfast.nn.states import Batch, Place, body, forward

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

CHUNK = {"cpu": 2**25, "cuda": 2**29}
"""Bytes of fp32 logits held at once; on a GPU enough rows to fill it at 150,000 words."""

Reduction = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor | None]]
"""(logits [C, V], which positions they are of, whether a gradient is wanted) -> the chunk's value
and its gradient by the logits [C, V]. It may write over the logits."""

FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
"""Fields of a config by which logits are multiplied (Cohere; Falcon H1; Muse)."""
DIVISOR = "logits_scaling"
"""The field by which Granite's logits are divided."""
MULTIPLIES = "hyperclovax"
"""Architectures so called multiply by the field that Granite divides by."""


def logit_scale(model: PreTrainedModel) -> float:
    """Give the factor between the head's output and the model's logits; 1 where it has none.

    Source: the architectures' own code in transformers 5.
    """
    config = model.config.get_text_config()
    scale = 1.0
    for name in FACTORS:
        value = getattr(config, name, None)
        if isinstance(value, int | float):
            scale *= value
    value = getattr(config, DIVISOR, None)
    if isinstance(value, int | float):
        scale *= value if config.model_type.startswith(MULTIPLIES) else 1 / value
    return scale


def logit_cap(model: PreTrainedModel) -> float | None:
    """Give the soft cap c of the scaled logits z, c tanh(z / c), or None where there is none."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


def is_plain_head(model: PreTrainedModel) -> bool:
    """Say whether the head is a linear layer and nothing else, so that it may be run in chunks."""
    head = model.get_output_embeddings()
    return type(head) is Linear and not head._forward_hooks and not head._forward_pre_hooks


def logits_of(model: PreTrainedModel, last: Tensor) -> Tensor:
    """Give the model's own logits from states behind the final norm, [N, H] -> [N, V]."""
    logits = model.get_output_embeddings()(last)
    scale, cap = logit_scale(model), logit_cap(model)
    if scale != 1:
        logits = scale * logits
    return cap * torch.tanh(logits / cap) if cap else logits


def head_parts(model: PreTrainedModel, last: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give states [N, H], weight [V, H] and bias [V] whose product is the logits before the cap."""
    head, scale = model.get_output_embeddings(), logit_scale(model)
    if scale == 1:
        return last, head.weight, head.bias
    # s (W h + b) = W (s h) + s b: no logit is touched twice.
    bias: Tensor | None = head.bias
    return last * scale, head.weight, None if bias is None else bias * scale


def final_norm(model: PreTrainedModel) -> Module:
    """Give the norm between the last block and the head: the body's last child of width H alone.

    Raises:
        ModelError: the body has no such child.
    """
    width = model.config.get_text_config().hidden_size
    found = []
    for child in body(model).children():
        own = list(child.parameters())
        if own and all(p.shape == (width,) for p in own):
            found.append(child)
    if not found:
        raise ModelError("model", "no final norm", "use a decoder-only model that has one")
    return found[-1]


# ---- a head in chunks


def in_chunks(
    reduce: Reduction,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    cap: float | None,
    chunk: int,
) -> Tensor:
    """Give the sum over chunks of `reduce`, fp32: hidden [N, H], weight [V, H], bias [V] -> [].

    Args:
        cap: soft cap c of the logits z, c tanh(z / c).
        chunk: positions at once.

    The gradient exists once: a second backward pass through one result is an error.
    """
    return _InChunks.apply(reduce, hidden, weight, bias, cap, chunk, torch.is_grad_enabled())


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  (torch's own: what is put on it is kept)
        reduce: Reduction,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        cap: float | None,
        chunk: int,
        graph: bool,
    ) -> Tensor:
        by_hidden, by_weight, by_bias = (graph and need for need in ctx.needs_input_grad[1:4])
        graded = by_hidden or by_weight or by_bias
        kind = dtype_of_products(hidden)
        h, w = hidden.to(kind), weight.to(kind)
        b = None if bias is None else bias.to(kind)
        d_hidden = torch.empty_like(hidden) if by_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if by_weight else None
        d_bias = (
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and by_bias else None
        )
        total = torch.zeros((), device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(h), chunk):
                part = slice(start, start + chunk)
                z, slope = capped(linear(h[part], w, b).float(), cap)
                value, g = reduce(z, part, graded)
                total += value
                if g is None:
                    continue
                if slope is not None:
                    g *= slope
                if d_bias is not None:
                    d_bias += g.sum(0)
                g = g.to(kind)
                if d_hidden is not None:
                    d_hidden[part] = (g @ w).to(d_hidden.dtype)
                if d_weight is not None and kind == torch.float32:
                    d_weight.addmm_(g.T, h[part])
                elif d_weight is not None:
                    d_weight += g.T @ h[part]
        ctx.found = (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None or bias is None else d_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401  (as above)
        *outer: Tensor,
    ) -> tuple[Tensor | None, ...]:
        if ctx.found is None:
            raise RuntimeError("the gradient of a sum over a head in chunks was already taken")
        found, ctx.found = ctx.found, None
        scaled = [None if one is None else one.mul_(outer[0].to(one.dtype)) for one in found]
        return None, *scaled, None, None, None


def dtype_of_products(hidden: Tensor) -> torch.dtype:
    """Give the dtype of matrix products with these states: autocast's where it is on."""
    device = hidden.device.type
    on = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else hidden.dtype


def capped(z: Tensor, cap: float | None) -> tuple[Tensor, Tensor | None]:
    """Give soft-capped logits and their slope; both as they are without a cap."""
    if not cap:
        return z, None
    t = torch.tanh(z / cap)
    return cap * t, 1 - t.square()


def fitting(hidden: Tensor, weight: Tensor, chunk: int | None, sets: int = 1) -> int:
    """Give the positions whose logits, in so many sets, fill `CHUNK`, unless `chunk` says."""
    if chunk is not None:
        return chunk
    return max(1, CHUNK.get(hidden.device.type, CHUNK["cpu"]) // (4 * sets * weight.shape[0]))


def summed_nll(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    cap: float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Give the sum of -log p(label), fp32, of labels [N]; the rest as `in_chunks` takes it."""

    def reduce(z: Tensor, part: slice, graded: bool) -> tuple[Tensor, Tensor | None]:
        own = labels[part]
        rows = torch.arange(len(own), device=own.device)
        z -= z.amax(1, keepdim=True)
        picked = z[rows, own]
        size = z.exp_().sum(1, keepdim=True)
        value = (size.log()[:, 0] - picked).sum()
        if not graded:
            return value, None
        z /= size
        z[rows, own] -= 1
        return value, z  # the gradient by the logits: p - 1 at the label

    chunk = fitting(hidden, weight, chunk)
    return in_chunks(reduce, hidden, weight, bias, cap=cap, chunk=chunk)


def summed_kl(
    old: Tensor,
    old_weight: Tensor,
    old_bias: Tensor | None,
    new: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    cap: float | None = None,
    temperature: float = 1.0,
    chunk: int | None = None,
) -> Tensor:
    """Give the sum over N of KL(p || q), fp32: p from `old` [N, H], a constant; q from `new`.

    Both models' logits are capped, then divided by the temperature; two sets of them are counted
    where `chunk` is None. The rest as `in_chunks` takes it.
    """
    kind = dtype_of_products(new)
    h, w = old.detach().to(kind), old_weight.detach().to(kind)
    b = None if old_bias is None else old_bias.detach().to(kind)

    def reduce(z: Tensor, part: slice, graded: bool) -> tuple[Tensor, Tensor | None]:
        log_q = z.div_(temperature).log_softmax(-1)
        fixed = capped(linear(h[part], w, b).float(), cap)[0]
        log_p = fixed.div_(temperature).log_softmax(-1)
        p = log_p.exp()
        value = (p * (log_p - log_q)).sum()
        if not graded:
            return value, None
        return value, log_q.exp_().sub_(p).div_(temperature)  # by the logits: (q - p) / T

    chunk = fitting(new, weight, chunk, sets=2)
    return in_chunks(reduce, new, weight, bias, cap=cap, chunk=chunk)


def summed_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    cap: float | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Give the sum of -sum_v p_v log p_v over N, fp32; the rest as `in_chunks` takes it."""

    def reduce(z: Tensor, _part: slice, graded: bool) -> tuple[Tensor, Tensor | None]:
        log = z.log_softmax(-1)
        p = log.exp()
        own = -torch.linalg.vecdot(p, log)
        # By the logits: -p (log p + H).
        return own.sum(), log.add_(own[:, None]).mul_(p).neg_() if graded else None

    chunk = fitting(hidden, weight, chunk)
    return in_chunks(reduce, hidden, weight, bias, cap=cap, chunk=chunk)


# ---- of a model


def head_nll(model: PreTrainedModel, states: Tensor, labels: Tensor) -> Tensor:
    """Give the sum of -log p(label) of normed states, [N, H] and [N] -> [], never all logits.

    States of several layers belong in one call: the head's gradient [V, H] then exists once. A head
    that is no plain linear layer is run as it is, `CHUNK` at a time.
    """
    head = model.get_output_embeddings()
    count(head.weight.numel(), len(labels), model, states.requires_grad)
    if is_plain_head(model):
        scaled, weight, bias = head_parts(model, states)
        return summed_nll(scaled, weight, bias, labels, cap=logit_cap(model))
    some = fitting(states, head.weight, None)
    value = states.new_zeros((), dtype=torch.float32)
    for h, own in zip(states.split(some), labels.split(some), strict=True):
        logits = logits_of(model, h).float()
        value = value + torch.nn.functional.cross_entropy(logits, own, reduction="sum")
    return value


def head_kl(
    old: PreTrainedModel,
    old_last: Tensor,
    new: PreTrainedModel,
    new_last: Tensor,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Give the sum of KL(p_old || p_new) in nats from final states [N, H] of both models.

    The old side is a constant; each model's own head is read, its logits over `temperature`.
    """
    first, second = old.get_output_embeddings(), new.get_output_embeddings()
    with torch.no_grad():
        count(first.weight.numel(), len(old_last), old, inputs_need_grad=False)
    count(second.weight.numel(), len(new_last), new, new_last.requires_grad)
    parts = (*head_parts(old, old_last), *head_parts(new, new_last))
    return summed_kl(*parts, cap=logit_cap(new), temperature=temperature)


# ---- of a response


def response_positions(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Give rows and columns [N] of all labelled positions, row by row, on the tokens' device."""
    found = (tokens.labels != IGNORE).nonzero()
    return found[:, 0], found[:, 1]


def emitting_states(last: Tensor, tokens: Batch) -> tuple[Tensor, Tensor, Tensor]:
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
    emitting, labels, _ = emitting_states(last, tokens)
    head = model.get_output_embeddings()
    count(head.weight.numel(), len(labels), model, last.requires_grad)
    return logits_of(model, emitting), labels


def log_probs(
    model: PreTrainedModel,
    tokens: Tokens,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
) -> tuple[Tensor, Tensor]:
    """Give the log-probability [N] of each labelled token, in fp32, and its row's index [N]."""
    batch = batch_for(model, tokens)
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
    batch = batch_for(model, tokens)
    states = forward(model, batch, trigger=trigger, place=place)
    return response_nll(model, states.last, batch)


def response_nll(model: PreTrainedModel, last: Tensor, tokens: Batch) -> tuple[Tensor, int]:
    """Give what `nll` gives from the last hidden states; a packed batch never holds all logits."""
    if not is_plain_head(model) or not isinstance(tokens, Packed):
        values = token_log_probs(model, last, tokens)
        return -values.sum(), len(values)
    emitting, labels, _ = emitting_states(last, tokens)
    states, weight, bias = head_parts(model, emitting)
    count(weight.numel(), len(labels), model, last.requires_grad)
    return summed_nll(states, weight, bias, labels, cap=logit_cap(model)), len(labels)


def per_row(values: Tensor, rows: Sequence[int] | Tensor, number: int) -> Tensor:
    """Sum [N] values by row into [number]."""
    index = torch.as_tensor(rows, device=values.device)
    return torch.zeros(number, dtype=values.dtype, device=values.device).index_add(0, index, values)
