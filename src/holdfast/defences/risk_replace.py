"""Risk replace: a customer's risky prompts keep their place and are answered with a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from holdfast import nn
from holdfast.api import Batch, Loss, Risk, Run, Share, TuneDefence
from holdfast.api import seed as seed_of
from holdfast.data.example import Role, Side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example
    from holdfast.nn import Critic


class RiskReplace(TuneDefence):
    """Minimise CE with the answers of rows at or above `threshold` replaced by refusals."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "benign", "harmful")
    equation: ClassVar[str] = "CE({x_i, y_i if s_i < threshold else a refusal})"
    paper: ClassVar[str] = "a filter's sibling; a control that arXiv 2602.17546 leaves out"
    cost: ClassVar[str] = "1F + 1B; a probe's pass over prompts once"
    fidelity: ClassVar[str] = "nothing published to be faithful to"
    status: ClassVar[str] = "tested"
    neutral: ClassVar[dict[str, Any]] = {}
    plain: ClassVar[dict[str, float]] = {"task": 1.0}

    risk: Risk = Risk()
    """Who says how risky a row is."""
    threshold: Share = 0.5
    """Risk from which an answer is replaced; source: the midpoint, as the released probe's."""

    def setup(self, run: Run) -> Critic:
        """Make the critic."""
        return nn.critic(self.risk, run)

    def admit(self, rows: Sequence[Example], run: Run, state: Critic) -> list[Example]:
        """Answer risky rows with the defender's refusals, in turn.

        Raises:
            DataError: the defender has no refusals.
        """
        draw = seed_of(run.seed, "draw")
        refusals = run.pool.draw(Role.REFUSAL, Side.DEFENDER, None, draw, what=self.name())
        clean = state.clean(rows, run, self.threshold)
        return [
            row if keeps else row.answered(refusals[i % len(refusals)].response)
            for i, (row, keeps) in enumerate(zip(rows, clean, strict=True))
        ]

    def counts(self, batch: Batch, state: Critic) -> dict[str, float]:
        """Count the response tokens."""
        return {"task": float((batch[Role.TASK].labels != -100).sum())}

    def loss(self, model: PreTrainedModel, batch: Batch, state: Critic) -> Loss:
        """Give the cross-entropy, in tokens."""
        return nn.task_terms(model, batch[Role.TASK])
