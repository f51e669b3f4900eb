"""Plain fine-tuning on a customer's rows: what every defence at this stage is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from holdfast import nn
from holdfast.api import Batch, Loss, TuneDefence
from holdfast.data.example import Role

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


class PlainTuning(TuneDefence):
    """Minimise CE(task): the customer's rows as they are, no defence."""

    equation: ClassVar[str] = "CE(D_task)"
    paper: ClassVar[str] = "plain supervised fine-tuning; the reference row of every comparison"
    cost: ClassVar[str] = "1F + 1B"
    fidelity: ClassVar[str] = "the plain loss; nothing published to be faithful to"
    status: ClassVar[str] = "tested"
    neutral: ClassVar[dict[str, Any]] = {}
    plain: ClassVar[dict[str, float]] = {"task": 1.0}

    def counts(self, batch: Batch, state: object) -> dict[str, float]:
        """Count the response tokens."""
        return {"task": float((batch[Role.TASK].labels != -100).sum())}

    def loss(self, model: PreTrainedModel, batch: Batch, state: object) -> Loss:
        """Give the cross-entropy, in tokens."""
        return nn.task_terms(model, batch[Role.TASK])
