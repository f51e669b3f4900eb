"""SafeInstr (Bianchi et al., ICLR 2024): mix a few refusals into a customer's rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from holdfast import nn
from holdfast.api import Batch, Loss, Run, TuneDefence
from holdfast.api import seed as seed_of
from holdfast.data.example import Role, Side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example


class SafeInstr(TuneDefence):
    """Minimise CE over the customer's rows and, among them, refusals of the defender's."""

    roles: ClassVar[tuple[str, ...]] = ("refusal",)
    paper: ClassVar[str] = "arXiv 2309.07875"
    equation: ClassVar[str] = "CE(D_task + share |D_task| refusals)"
    cost: ClassVar[str] = "1F + 1B, on the rows added too"
    fidelity: ClassVar[str] = (
        "the mixture; its answers alone are trained here (the original also trains on prompts); "
        "published numbers not reproduced"
    )
    status: ClassVar[str] = "tested"
    neutral: ClassVar[dict[str, Any]] = {}
    plain: ClassVar[dict[str, float]] = {"task": 1.0}

    share: Annotated[float, Field(ge=0)] = 0.03
    """Refusals for each row of the customer's, at least one where it is not 0; source: the paper's
    mixtures add 100 to 2,000 to some 20,000 rows and gain little beyond 500."""

    def admit(self, rows: Sequence[Example], run: Run, state: object) -> list[Example]:
        """Add the refusals; where the defender has fewer than are wanted, they come again.

        Raises:
            DataError: the defender has none.
        """
        number = math.ceil(self.share * len(rows))
        if not number:
            return list(rows)
        draw = seed_of(run.seed, "draw")
        mine = run.pool.draw(Role.REFUSAL, Side.DEFENDER, None, draw, what=self.name())
        added = [replace(mine[i % len(mine)], role=Role.TASK) for i in range(number)]
        return [*rows, *added]

    def counts(self, batch: Batch, state: object) -> dict[str, float]:
        """Count the response tokens."""
        return {"task": float((batch[Role.TASK].labels != -100).sum())}

    def loss(self, model: PreTrainedModel, batch: Batch, state: object) -> Loss:
        """Give the cross-entropy, in tokens."""
        return nn.task_terms(model, batch[Role.TASK])
