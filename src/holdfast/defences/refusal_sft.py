"""Refusal fine-tuning: refusals on harmful prompts, good answers on benign ones.

The baseline no paper of the alignment-stage family shows beside its own method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from holdfast import nn
from holdfast.api import Batch, Count, Loop, Loss, LossDefence, NotNegative, Term
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role, Side

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool


class RefusalSFT(LossDefence):
    """Minimise CE(refusal | harmful prompt) + weight x CE(response | benign prompt)."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "benign")
    equation: ClassVar[str] = "CE(D_ref) + benign_weight * CE(D_ben)"
    paper: ClassVar[str] = "plain supervised fine-tuning; the reference row of every study"
    cost: ClassVar[str] = "1F + 1B on both roles"
    fidelity: ClassVar[str] = "the plain loss; nothing published to be faithful to"
    status: ClassVar[str] = "tested"
    neutral: ClassVar[dict[str, Any]] = {}
    plain: ClassVar[dict[str, float]] = {"refusal": 1.0, "benign": 1.0}

    benign_weight: NotNegative = 1.0
    """Weight of the benign term; each term is a mean over its own response tokens."""
    n_refusal: Count | None = None
    """Distinct refusal rows; None takes all of the defender's."""
    n_benign: Count | None = None
    """Distinct benign rows; None takes all of the defender's."""
    loop: Loop = Loop(steps=1875, batch=4, lr=1e-5, schedule="linear")
    """As SGT's second stage: 5,000 rows, 3 epochs, batch 8, 1e-5, falling to 0."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's refusals and benign rows."""
        draw = seed_of(seed, "draw")
        return {
            Role.REFUSAL: pool.draw(
                Role.REFUSAL, Side.DEFENDER, self.n_refusal, draw, what=self.name()
            ),
            Role.BENIGN: pool.draw(
                Role.BENIGN, Side.DEFENDER, self.n_benign, draw, what=self.name()
            ),
        }

    def counts(self, batch: Batch, state: object) -> dict[str, float]:
        """Count the response tokens of each role."""
        return {
            role.value: float((batch[role].labels != -100).sum())
            for role in (Role.REFUSAL, Role.BENIGN)
        }

    def loss(self, model: PreTrainedModel, batch: Batch, state: object) -> Loss:
        """Give both cross-entropies, in tokens."""
        terms: Loss = {}
        for role, weight in ((Role.REFUSAL, 1.0), (Role.BENIGN, self.benign_weight)):
            value, count = nn.nll(model, batch[role])
            terms[role.value] = Term(value, count, weight, "tokens")
        return terms
