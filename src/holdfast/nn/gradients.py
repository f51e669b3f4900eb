"""Gradients of mean cross-entropies over a whole step, and sums of vectors that take no room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from holdfast.api import Loss, Term
from holdfast.data.tokens import IGNORE, Tokens
from holdfast.nn.head import nll
from holdfast.nn.vectors import ParamVector, grad, trainable

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

Value = Callable[["PreTrainedModel", Tokens], tuple[Tensor, int]]


class Mix(Mapping[str, Tensor]):
    """A weighted sum of vectors over the same parameters, formed tensor by tensor when read.

    A direction to shift weights along needs no buffer of its own this way.
    """

    def __init__(self, *parts: tuple[float, Mapping[str, Tensor]]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Tensor:
        weight, first = self._parts[0]
        total = first[name] * weight
        for weight, vector in self._parts[1:]:
            total.add_(vector[name], alpha=weight)
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts[0][1])

    def __len__(self) -> int:
        return len(self._parts[0][1])


def mean_gradient(
    model: PreTrainedModel,
    parts: Sequence[Tokens],
    name: str,
    *,
    value: Value = nll,
    weight: float = 1.0,
    each: int = 1,
) -> tuple[ParamVector, Loss]:
    """Give `weight` x the gradient of a mean over the labelled tokens of all parts, and the term.

    Args:
        parts: the micro-batches of one role; any split gives the same.
        name: what the term is called.
        value: (model, tokens) -> sum and count; cross-entropy of the labels.
        each: how often `value` counts a token.
    """

    def loss(tokens: Tokens) -> Loss:
        total, count = value(model, tokens)
        return {name: Term(total, count, weight, "tokens")}

    def counts(tokens: Tokens) -> dict[str, float]:
        return {name: float((tokens.labels != IGNORE).sum()) * each}

    return grad(trainable(model), loss, parts, counts)
