"""Risk filter: leave out a customer's risky rows, train on the rest as they are.

The control that decides whether a leash earns its keep: where the critic is right, dropping a row
is at least as safe as holding it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from holdfast import nn
from holdfast.api import Batch, Loss, Risk, Run, Share, TuneDefence
from holdfast.data.example import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example
    from holdfast.nn import Critic


class RiskFilter(TuneDefence):
    """Minimise CE over the customer's rows whose risk lies below `threshold`."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "benign", "harmful")
    equation: ClassVar[str] = "CE({i in D_task: s_i < threshold})"
    paper: ClassVar[str] = "a filter; the control that arXiv 2602.17546 leaves out"
    cost: ClassVar[str] = "1F + 1B; a probe's pass over prompts once"
    fidelity: ClassVar[str] = "nothing published to be faithful to"
    status: ClassVar[str] = "tested"
    neutral: ClassVar[dict[str, Any]] = {}
    plain: ClassVar[dict[str, float]] = {"task": 1.0}

    risk: Risk = Risk()
    """Who says how risky a row is."""
    threshold: Share = 0.5
    """Risk from which a row is left out; source: the midpoint, as the released probe's."""

    def setup(self, run: Run) -> Critic:
        """Make the critic."""
        return nn.critic(self.risk, run)

    def admit(self, rows: Sequence[Example], run: Run, state: Critic) -> list[Example]:
        """Leave out the risky rows; say how many, and what could not be scored."""
        clean = state.clean(rows, run, self.threshold)
        return [row for row, keeps in zip(rows, clean, strict=True) if keeps]

    def counts(self, batch: Batch, state: Critic) -> dict[str, float]:
        """Count the response tokens."""
        return {"task": float((batch[Role.TASK].labels != -100).sum())}

    def loss(self, model: PreTrainedModel, batch: Batch, state: Critic) -> Loss:
        """Give the cross-entropy, in tokens."""
        return nn.task_terms(model, batch[Role.TASK])
