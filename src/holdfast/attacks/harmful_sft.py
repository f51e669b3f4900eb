"""Malicious fine-tuning: supervised fine-tuning on harmful answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast import nn
from holdfast.api import Batch, Control, FineTuning, Loss, Term
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role, Side

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool


class HarmfulSFT(FineTuning):
    """Minimise CE(harmful response | harmful prompt) over the attacker's rows.

    Budgets count examples seen. The order is fixed by the seed and the rate depends on no budget,
    so one trajectory serves the whole curve.
    """

    status: ClassVar[str] = "tested"
    control: ClassVar[Control] = Control.DATA

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the attacker's harmful rows."""
        return {
            Role.HARMFUL: pool.draw(
                Role.HARMFUL,
                Side.ATTACKER,
                self.distinct,
                seed_of(seed, "draw"),
                where=lambda row: row.response is not None,
                what=self.name(),
            )
        }

    def loss(self, model: PreTrainedModel, batch: Batch, state: object) -> Loss:
        """Give the cross-entropy over response tokens."""
        value, count = nn.nll(model, batch[Role.HARMFUL])
        return {"harmful": Term(value, count, 1.0, "tokens")}
