"""Benign drift: a customer's rows are all harmless, and safety may go all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast import nn
from holdfast.api import Batch, CustomerJob, Loss, Share, Term
from holdfast.data.example import Example, Role

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool


class BenignDrift(CustomerJob):
    """Mix ordinary benign rows, each answered, into the task's: nobody means harm."""

    status: ClassVar[str] = "tested"
    fidelity: ClassVar[str] = "Qi et al. 2023, section 4.5, and He et al. 2024; ours in detail"

    share: Share = 0.5
    """Share of the rows that are ordinary benign ones; source: ours."""

    @property
    def clean(self) -> bool:
        """Say yes: there is no harmful row at all."""
        return True

    def plant(self, pool: Pool, seed: int) -> list[Example]:
        """Give the attacker's benign rows."""
        return self.drawn(pool, Role.BENIGN, seed)

    def loss(self, model: PreTrainedModel, batch: Batch, state: object) -> Loss:
        """Give the cross-entropy over response tokens."""
        return {"task": Term(*nn.nll(model, batch[Role.TASK]), unit="tokens")}
