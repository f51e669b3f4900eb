"""Malicious fine-tuning: supervised fine-tuning on harmful answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from holdfast import models
from holdfast.config import NO_EFFECT, AsTuple
from holdfast.data.example import Example, Role, Side
from holdfast.errors import ConfigError
from holdfast.method import Batch, Control, Loss, Term, TrainedAttack
from holdfast.run import Count, Loop, LoRA, Positive, Precision
from holdfast.run import seed as seed_of

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool


class HarmfulSFT(TrainedAttack):
    """Minimise CE(harmful response | harmful prompt) over the attacker's rows.

    Budgets count examples seen. The schedule is constant and the order fixed by the seed, so one
    trajectory serves the whole curve.
    """

    control: ClassVar[Control] = Control.DATA

    lr: Positive = 1e-5
    """Learning rate of AdamW, constant; source: SGT's attack."""
    batch_size: Count = 2
    """Rows in an optimiser step; source: SGT's attack."""
    evaluate_at: Annotated[
        tuple[Count, ...], AsTuple, Field(min_length=1, json_schema_extra=NO_EFFECT)
    ] = (100, 300, 500)
    """Budgets in examples seen; source: SGT, Table 1. Adding one leaves the others' rows as is."""
    distinct: Count | None = None
    """Distinct rows the attacker has; None means all of the attacker's. Fewer are repeated."""
    lora: LoRA | None = None
    """Train a fresh adapter instead of all weights."""
    precision: Precision = "fp32"
    """Precision of weights and arithmetic; pure bf16 weakens the attack (register 9.D row 30)."""
    clip: Positive | None = None
    """Largest gradient norm; source: SGT's attack does not clip."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay; source: torch's default, which SGT's attack uses."""
    checkpoint_every: Annotated[int, Field(ge=1, json_schema_extra=NO_EFFECT)] = 200
    """Steps between two checkpoints of an unfinished run."""

    @model_validator(mode="after")
    def _whole_steps(self) -> Self:
        for budget in self.evaluate_at:
            if budget % self.batch_size:
                raise ConfigError(
                    "evaluate_at",
                    f"{budget} is no multiple of batch_size {self.batch_size}",
                    "use whole optimiser steps",
                )
        return self

    def points(self) -> tuple[float, ...]:
        """Give the budgets in examples seen, ascending."""
        return tuple(float(budget) for budget in sorted(set(self.evaluate_at)))

    def label(self) -> str:
        """Give learning rate and, where it is one, the adapter's rank."""
        return f"lr={self.lr:g}" + (f" lora={self.lora.rank}" if self.lora else "")

    def step_of(self, point: float) -> int:
        """Give the optimiser step after which `point` examples have been seen."""
        return int(point) // self.batch_size

    def train_loop(self) -> Loop:
        """Give the loop that reaches the largest budget."""
        return Loop(
            steps=self.step_of(max(self.evaluate_at)),
            batch=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            clip=self.clip,
            precision=self.precision,
            lora=self.lora,
            checkpoint_every=self.checkpoint_every,
        )

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

    def loss(self, model: PreTrainedModel, batch: Batch, state: Any) -> Loss:
        """Give the cross-entropy over response tokens."""
        value, count = models.nll(model, batch[Role.HARMFUL])
        return {"harmful": Term(value, count, 1.0, "tokens")}
