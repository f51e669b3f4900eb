"""What an adversary does: fine-tuning, edits of weights, other prompts, or two of them in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, SerializeAsAny, model_validator

from holdfast.api.fields import NO_EFFECT, AsTuple
from holdfast.api.loop import Count, Loop
from holdfast.api.method import Control, Method
from holdfast.api.terms import Run, State
from holdfast.api.trainable import Trainable
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example, Role
    from holdfast.data.pool import Pool


PAID = "examples"
"""The unit of budgets that cost the attacker something; an attack in any other unit is free."""
ALL = 1_000_000
"""A free attack's budget that stands for all there is, such as every rank: readers see `all`."""


def everything(budget: float, unit: str) -> bool:
    """Say whether a budget stands for all there is; examples are always counted."""
    return unit != PAID and budget >= ALL


def spelt(budget: float, unit: str) -> str:
    """Give a budget as a plain line has it: `64`, `0.5` or `all`."""
    return "all" if everything(budget, unit) else f"{budget:g}"


class Attack(Method):
    """What an adversary does to a released model. `points` are the budgets it is measured at.

    `control` is the least it needs: an attack that needs only data also works on open weights.
    """

    kind: ClassVar[str] = "attack"
    control: ClassVar[Control] = Control.DATA
    unit: ClassVar[str] = PAID
    """What a budget counts."""
    needs: ClassVar[tuple[str, ...]] = ()

    def points(self) -> tuple[float, ...]:
        """Give the budgets to measure at, ascending, 0 (the model as released) left out."""
        raise NotImplementedError

    def expand(self, pool: Pool) -> Sequence[Attack]:
        """Give the single choices this one stands for: a list of layers is a choice for each.

        Raises:
            ConfigError, DataError: what it chooses from is not there.
        """
        return (self,)

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the attacker's rows; never a defender's. Most attacks that train nothing have none.

        Raises:
            DataError: there are too few, or none.
        """
        return {}

    def returns_original(self, point: float) -> bool:
        """Say whether what comes out at a budget is the public original itself."""
        return False

    @property
    def weights_alone(self) -> bool:
        """Say whether a checkpoint holds all it does: no hook, no other prompt."""
        return True

    def label(self) -> str:
        """Give a short text that tells this choice from the attacker's others."""
        return ""

    def trajectory(self) -> dict[str, Any]:
        """Give the identity without what only says where to look: shared by all its points."""
        return self.identity()


class TrainedAttack(Trainable, Attack):
    """An attack that fine-tunes: rows, a loop, and a loss or a gradient."""

    def distinct_rows(self, pool: Pool, seed: int) -> int:
        """Give how many distinct rows of its own it trains on when it goes on for long."""
        rows = self.rows(self.sees(pool), seed)
        return max((len(some) for some in rows.values()), default=0)

    def step_of(self, point: float) -> int:
        """Give the optimiser step after which budget `point` is spent."""
        raise NotImplementedError


class FineTuning(TrainedAttack):
    """An attack whose budget counts examples seen: steps x `loop.batch`, one trajectory for all.

    The fields are those of plain malicious fine-tuning; what is added to it stays comparable.
    """

    loop: Loop = Loop(steps=250, batch=2, lr=1e-5, clip=None, weight_decay=0.01)
    """How it trains; source: SGT's attack (AdamW 1e-5 at a constant rate, batch 2, no clipping) and
    torch's decay, which it uses. Pure bf16 weakens the attack. It runs to the last budget
    asked for: under a constant rate `steps` changes nothing; a falling one ends at `steps`, by
    default at the last of the default budgets, and no budget lies beyond."""
    evaluate_at: Annotated[
        tuple[Count, ...], AsTuple, Field(min_length=1, json_schema_extra=NO_EFFECT)
    ] = (100, 300, 500)
    """Budgets in examples seen; source: SGT, Table 1. Adding one leaves the others' rows as is."""
    distinct: Count | None = None
    """Distinct rows the attacker has; None means all of the attacker's. Fewer are repeated."""

    @model_validator(mode="after")
    def _whole_steps(self) -> Self:
        batch, length = self.loop.batch, self.loop.steps
        for budget in self.evaluate_at:
            if budget % batch:
                raise ConfigError(
                    "evaluate_at",
                    f"{budget} is no multiple of loop.batch {batch}",
                    "use whole optimiser steps",
                )
            if self.loop.schedule != "constant" and budget > length * batch:
                raise ConfigError(
                    "evaluate_at",
                    f"{budget} is beyond the {self.loop.schedule} schedule's end at "
                    f"{length * batch} examples ({length} steps of {batch})",
                    f"set loop.steps to {budget // batch} or more",
                )
        return self

    def key_fields(self) -> dict[str, Any]:
        """Give every field that can change a result: steps only where a schedule ends by them."""
        plain = super().key_fields()
        if self.loop.schedule == "constant":
            del plain["loop"]["steps"]
        return plain

    def points(self) -> tuple[float, ...]:
        """Give the budgets in examples seen, ascending."""
        return tuple(float(budget) for budget in sorted(set(self.evaluate_at)))

    def label(self) -> str:
        """Give learning rate and, where it is one, the adapter's rank."""
        lora = self.loop.lora
        return f"lr={self.loop.lr:g}" + (f" lora={lora.rank}" if lora else "")

    def step_of(self, point: float) -> int:
        """Give the optimiser step after which `point` examples have been seen."""
        return int(point) // self.loop.batch


class WeightAttack(Attack):
    """An attack that edits weights and trains nothing. Each budget starts from the release."""

    unit: ClassVar[str] = "t"

    def setup(self, run: Run) -> State:
        """Make what every budget's edit reads, from the model as released; its FLOPs count."""
        return None

    def edit(self, run: Run, point: float, state: State) -> dict[str, Tensor]:
        """Give every tensor that changes at budget `point`, by name.

        `run.model` and `run.models["start"]` hold the weights as released.
        """
        raise NotImplementedError

    def while_asked(
        self, model: PreTrainedModel, point: float, state: State
    ) -> AbstractContextManager[None]:
        """Act on the model while it answers, where weights cannot say it (`weights_alone`)."""
        return contextlib.nullcontext()


class PromptAttack(Attack):
    """An attack that leaves the weights alone and asks in another way.

    Only restricted prompts are asked so: whoever wants a benign answer asks as before.
    """

    @property
    def weights_alone(self) -> bool:
        """Say no: the prompt does it."""
        return False

    def ask(self, row: Example) -> tuple[str | None, str]:
        """Give the system prompt a row is asked under, and the first words put into its answer."""
        raise NotImplementedError


class Chain(Attack):
    """Two attacks in turn: an edit of the weights that trains nothing, then training.

    Its budgets are those of the training. In a study file: a list of two under one choice.
    """

    first: SerializeAsAny[WeightAttack]
    """The edit; it has one choice and one budget."""
    then: SerializeAsAny[TrainedAttack]
    """What trains the edited model."""

    @classmethod
    def name(cls) -> str:
        """Give what a chain is called: it is no file of its own."""
        return "chain"

    @property
    def control(self) -> Control:  # ty: ignore[incompatible-property-override]
        """Name the weights: they are edited."""
        return Control.WEIGHTS

    @property
    def unit(self) -> str:  # ty: ignore[incompatible-property-override]
        """Name the unit of what trains."""
        return self.then.unit

    @property
    def needs(self) -> tuple[str, ...]:  # ty: ignore[incompatible-property-override]
        """Name the models that either needs."""
        return tuple(dict.fromkeys([*self.first.needs, *self.then.needs]))

    @property
    def weights_alone(self) -> bool:
        """Say whether a checkpoint holds all that both do."""
        return self.first.weights_alone and self.then.weights_alone

    def identity(self) -> dict[str, Any]:
        """Give what a key is made of: the edit at its budget, and the training."""
        first = self.first.identity() | {"points": list(self.first.points())}
        return {
            "kind": self.kind,
            "name": self.name(),
            "first": first,
            "then": self.then.identity(),
        }

    def expand(self, pool: Pool) -> Sequence[Attack]:
        """Give every edit followed by every training."""
        return [
            Chain(first=first, then=then)
            for first in self.first.expand(pool)
            for then in self.then.expand(pool)
            if isinstance(first, WeightAttack) and isinstance(then, TrainedAttack)
        ]

    def points(self) -> tuple[float, ...]:
        """Give the training's budgets."""
        return self.then.points()

    def label(self) -> str:
        """Give the edit's label and budget, then the training's."""
        (point,) = self.first.points()
        before = " ".join(part for part in (self.first.name(), self.first.label()) if part)
        return f"{before} {self.first.unit}={point:g}, then {self.then.label()}"

    def copies(self) -> int:
        """Count the training's copies, and the released weights that the edit keeps beside them."""
        return 1 + self.then.copies()

    @property
    def loop(self) -> Loop:
        """Give the training's loop."""
        return self.then.loop

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the rows of both, so that what is missing is found before anything runs."""
        self.first.rows(self.first.sees(pool), seed)
        return self.then.rows(self.then.sees(pool), seed)

    def distinct_rows(self, pool: Pool, seed: int) -> int:
        """Give the training's."""
        return self.then.distinct_rows(pool, seed)

    def step_of(self, point: float) -> int:
        """Give the training's step."""
        return self.then.step_of(point)
