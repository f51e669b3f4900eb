"""What each row of a customer pays: its cross-entropy, and a leash to a frozen reference.

Symbols: N response tokens, R rows, V vocabulary, H width; p the reference's next-token
distribution, q the model's; CE = -log q(label), KL = sum_v p_v (log p_v - log q_v), forward. Only
positions that emit a response token reach the head, in chunks, in fp32; no [N, V] is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import linear

from holdfast.api import Loss, Term
from holdfast.errors import ModelError
from holdfast.nn.head import (
    capped,
    dtype_of_products,
    emitting_states,
    fitting,
    head_parts,
    in_chunks,
    is_plain_head,
    logit_cap,
    logits_of,
    nll,
    per_row,
)
from holdfast.nn.passes import batch_for, count, without_adapter
from holdfast.nn.reference import frozen_copy
from holdfast.nn.states import forward, places_of

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.tokens import Tokens

Weigh = Callable[[Tensor, Tensor, slice], Tensor]
"""(log q, log p of the labels [C] each, which of the N they are) -> each cross-entropy's weight."""


@dataclass(frozen=True)
class RowSums:
    """What rows pay: `loss` [] carries the gradient; `ce`, `kl` and `tokens` [R] are constants.

    In nats, summed over a row's response tokens. The loss of an optimiser step is the sum of its
    parts' `loss` over the response tokens of the whole step, so a split changes nothing.
    """

    loss: Tensor
    ce: Tensor
    kl: Tensor
    tokens: Tensor


def reference_pass(
    reference: PreTrainedModel, tokens: Tokens, layers: Sequence[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """Give the reference's final states [N, H] that emit a response token; one pass, no gradient.

    Also its states [R, H] after each of `layers` at each row's last prompt token, from the same
    pass: what a probe reads.
    """
    with torch.no_grad(), without_adapter(reference):
        batch = batch_for(reference, tokens)
        device = next(reference.parameters()).device
        at = places_of(batch, [row.span("last_prompt") for row in tokens.rows])[0].to(device)
        states = forward(reference, batch, layers=bool(layers), at=at if layers else None)
        found = {k: states.layers[k - 1] for k in layers}
        return emitting_states(states.last, batch)[0], found


def row_sums(
    model: PreTrainedModel,
    tokens: Tokens,
    reference: PreTrainedModel,
    old_states: Tensor,
    alpha: Tensor,
    beta: Tensor,
    *,
    weigh: Weigh | None = None,
) -> RowSums:
    """Run the model over rows and give what they pay beside the reference's `old_states`."""
    batch = batch_for(model, tokens)
    states, labels, rows = emitting_states(forward(model, batch).last, batch)
    return leashed(model, states, reference, old_states, labels, rows, alpha, beta, weigh=weigh)


def task_terms(model: PreTrainedModel, tokens: Tokens) -> Loss:
    """Give the customer's plain cross-entropy over response tokens, as the term `task`."""
    value, number = nll(model, tokens)
    return {"task": Term(value, number, unit="tokens")}


def leash_terms(sums: RowSums, beta: Tensor) -> Loss:
    """Give `task` and `kl`, whose sum is the step's loss: both are divided by the same count.

    The gradient of both travels with `task`; `kl` is a constant beside it.
    """
    tokens = float(sums.tokens.sum())
    kl = (beta.to(sums.kl.device) * sums.kl).sum()
    return {
        "task": Term(sums.loss - kl, tokens, unit="tokens"),
        "kl": Term(kl, tokens, unit="tokens"),
    }


def leashed(
    model: PreTrainedModel,
    states: Tensor,
    reference: PreTrainedModel,
    old_states: Tensor,
    labels: Tensor,
    rows: Tensor,
    alpha: Tensor,
    beta: Tensor,
    *,
    weigh: Weigh | None = None,
    chunk: int | None = None,
) -> RowSums:
    """Give sum_i (alpha_i CE_i + beta_i KL_i) over rows i, and what each row's parts are.

    Args:
        states: [N, H] final states of the model that emit `labels` [N].
        old_states: [N, H] the reference's at the same places, constants.
        rows: [N] each token's row, from 0.
        alpha: [R] each row's weight of its cross-entropy.
        beta: [R] each row's weight of its KL.
        weigh: gives a further weight of each token's cross-entropy, a constant; None weighs all 1.
        chunk: positions at once; None fills what `head.CHUNK` allows.
    """
    device = states.device
    rows = rows.to(device)
    a, b = (each.to(device, torch.float32)[rows] for each in (alpha, beta))
    first, second = reference.get_output_embeddings(), model.get_output_embeddings()
    with torch.no_grad():
        count(first.weight.numel(), len(labels), reference, inputs_need_grad=False)
    count(second.weight.numel(), len(labels), model, states.requires_grad)
    run = _in_chunks if is_plain_head(model) and is_plain_head(reference) else _whole
    loss, ce, kl = run(model, states, reference, old_states, labels, a, b, weigh, chunk)
    number = len(alpha)
    ones = torch.ones(len(rows), device=device)
    return RowSums(loss, *(per_row(each, rows, number) for each in (ce, kl, ones)))


def _in_chunks(
    model: PreTrainedModel,
    states: Tensor,
    reference: PreTrainedModel,
    old_states: Tensor,
    labels: Tensor,
    a: Tensor,
    b: Tensor,
    weigh: Weigh | None,
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the weighted sum, CE [N] and KL [N]; a chunk's gradient is formed beside its value."""
    new, weight, bias = head_parts(model, states)
    kind, cap = dtype_of_products(new), logit_cap(reference)
    with torch.no_grad():
        old, old_weight, old_bias = head_parts(reference, old_states)
        h, w = old.to(kind), old_weight.to(kind)
        v = None if old_bias is None else old_bias.to(kind)
    ce, kl = (torch.zeros(len(labels), device=states.device) for _ in range(2))

    def reduce(z: Tensor, part: slice, graded: bool) -> tuple[Tensor, Tensor | None]:
        log_q = z.log_softmax(-1)
        log_p = capped(linear(h[part], w, v).float(), cap)[0].log_softmax(-1)
        own = labels[part]
        at = torch.arange(len(own), device=own.device)
        p = log_p.exp()
        ce[part] = -log_q[at, own]
        kl[part] = (p * (log_p - log_q)).sum(-1)
        alpha, beta = a[part], b[part]
        if weigh is not None:
            alpha = alpha * weigh(-ce[part], log_p[at, own], part)
        value = (alpha * ce[part] + beta * kl[part]).sum()
        if not graded:
            return value, None
        # By the logits: alpha (q - 1 at the label) + beta (q - p).
        slope = log_q.exp_().mul_((alpha + beta)[:, None]).sub_(p.mul_(beta[:, None]))
        slope[at, own] -= alpha
        return value, slope

    chunk = fitting(new, weight, chunk, sets=2)
    loss = in_chunks(reduce, new, weight, bias, cap=logit_cap(model), chunk=chunk)
    return loss, ce, kl


def _whole(
    model: PreTrainedModel,
    states: Tensor,
    reference: PreTrainedModel,
    old_states: Tensor,
    labels: Tensor,
    a: Tensor,
    b: Tensor,
    weigh: Weigh | None,
    _chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the same of a head that is no plain linear layer, run as it is."""
    with torch.no_grad():
        log_p = logits_of(reference, old_states).float().log_softmax(-1)
    log_q = logits_of(model, states).float().log_softmax(-1)
    at = torch.arange(len(labels), device=labels.device)
    ce, kl = -log_q[at, labels], (log_p.exp() * (log_p - log_q)).sum(-1)
    if weigh is not None:
        every = slice(0, len(labels))
        a = a * weigh(-ce.detach(), log_p[at, labels], every)
    return (a * ce + b * kl).sum(), ce.detach(), kl.detach()


def mixture(data: Tensor, reference: Tensor, alpha: float, beta: float) -> Tensor:
    """Give the distribution at which alpha CE(data) + beta KL(reference || q) is least, [V].

    (alpha data + beta reference) / (alpha + beta): what a context seen in training ends at. So
    under sampling at temperature 1 a share alpha / (alpha + beta) of the customer's opening stays.
    """
    return (alpha * data + beta * reference) / (alpha + beta)


def reference_of(
    model: PreTrainedModel, adapted: bool, weights: Mapping[str, Tensor] | None, where: str
) -> PreTrainedModel:
    """Give the frozen reference: the model as it starts, or one that holds other weights.

    The model itself where only an adapter is trained, to be read inside `without_adapter`; else a
    copy.

    Args:
        weights: the reference's tensors by name, where it is another model than the start.

    Raises:
        ModelError: they are of another shape than the model's.
    """
    if weights is None:
        return model if adapted else frozen_copy(model)
    params = dict(model.named_parameters())
    for name, p in params.items():
        other = tuple(weights[name].shape) if name in weights else None
        if other != tuple(p.shape):
            said = "has no such tensor" if other is None else f"has it as {other}"
            raise ModelError(
                f"{where}.reference",
                f"'{name}' is {tuple(p.shape)} in the model, the reference {said}",
                "use a reference of the same shape and tokenizer",
            )
    made = frozen_copy(model)
    with torch.no_grad():
        for name, p in made.named_parameters():
            p.copy_(weights[name])
    return made
