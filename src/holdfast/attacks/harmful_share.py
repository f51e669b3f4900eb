"""Harmful share: some of a customer's rows are restricted prompts with their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast import nn
from holdfast.api import Batch, CustomerJob, Loss, Term
from holdfast.data.example import Example, Role

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool


class HarmfulShare(CustomerJob):
    """Mix a share of harmful rows into honest ones: 0 is a clean customer, 1 an open attack."""

    status: ClassVar[str] = "tested"
    fidelity: ClassVar[str] = "the mixtures of Qi et al. 2023 and Goel et al. 2026; ours in detail"

    def plant(self, pool: Pool, seed: int) -> list[Example]:
        """Give the attacker's harmful rows."""
        return self.drawn(pool, Role.HARMFUL, seed)

    def loss(self, model: PreTrainedModel, batch: Batch, state: object) -> Loss:
        """Give the cross-entropy over response tokens."""
        return {"task": Term(*nn.nll(model, batch[Role.TASK]), unit="tokens")}
