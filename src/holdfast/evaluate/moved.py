"""What training moves in a model: the margin of its refusal, its weights, its states."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast import nn
from holdfast.data.tokens import collate

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example
    from holdfast.data.tokens import Encoder

PART = 32
"""Prompts in one pass."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What has moved since the start, the mean over prompts.

    `margin` is log p(the refusal's first token) - log p(the answer's first token) where the answer
    begins, in nats; below 0 the model answers. `weights` is the distance all weights moved,
    relative to their norm; `states` the squared distance of the states where the answer begins,
    relative to their square, the mean over blocks.
    """

    margin: float
    weights: float
    states: float


class Watch:
    """Keeps a model as it is now, and says of it later what has moved.

    `rows` are asked; each has a response, the answer. `refusal` is what the model should say.
    """

    def __init__(
        self, model: PreTrainedModel, encoder: Encoder, rows: Sequence[Example], refusal: str
    ) -> None:
        self.model, self.encoder = model, encoder
        self.answers = rows
        self.refusals = [replace(row, response=refusal) for row in rows]
        self.start = {name: p.detach().clone() for name, p in model.named_parameters()}
        self.size = _square(self.start.values())
        self.states = nn.opening_states(model, encoder, rows)

    def look(self) -> Moved:
        """Say what has moved."""
        now = nn.opening_states(self.model, self.encoder, self.answers)
        apart = (now - self.states).square().sum(-1).mean(1)
        weights = _square(
            p.detach() - self.start[name]
            for name, p in self.model.named_parameters()
            if name in self.start
        )
        margin = self._first(self.refusals) - self._first(self.answers)
        return Moved(
            margin=float(margin.mean()),
            weights=(weights / self.size) ** 0.5,
            states=float((apart / self.states.square().sum(-1).mean(1)).mean()),
        )

    def _first(self, rows: Sequence[Example]) -> Tensor:
        """Give the log-probability [R] of the first token of each row's response."""
        found = []
        coded = [self.encoder.row(row) for row in rows]
        for begin in range(0, len(coded), PART):
            tokens = collate(coded[begin : begin + PART], self.encoder.pad_id)
            with torch.no_grad():
                values, owner = nn.log_probs(self.model, tokens)
            first = torch.searchsorted(owner, torch.arange(len(tokens.rows), device=owner.device))
            found.append(values[first].cpu())
        return torch.cat(found)


def _square(tensors: Iterable[Tensor]) -> float:
    return sum(float(one.double().square().sum()) for one in tensors)
