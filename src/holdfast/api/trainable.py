"""What defences and attacks that train have in common: rows, hooks, and the one loop's fields."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from holdfast.api.effort import Blocks, Effort, Rows, passed
from holdfast.api.fields import LATER, AsTuple
from holdfast.api.loop import Loop
from holdfast.api.method import Method
from holdfast.api.terms import Batch, Enough, Loss, Run, State, Step
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example, Role
    from holdfast.data.pool import Pool
    from holdfast.nn.vectors import ParamVector

OLD_WORDS = {"batch_size": "batch"}
"""What a field of the loop was called when attacks had it as their own."""


class Trainable(Method):
    """A method that trains a model on the one loop: write `rows`, and `loss` or `gradient`.

    A run asks for `rows`, `adapt`, `setup` and, once the adapter of LoRA is on, `begin`; then for
    every step `on_step`, and the gradient of `loss` or what `gradient` gives.
    """

    loop: Loop = Loop()
    """How it trains: steps, batch, learning rate, precision, LoRA."""
    categories: Annotated[tuple[str, ...], AsTuple, Field(json_schema_extra=LATER)] = ()
    """Categories of the restricted rows (`refusal`, `harmful`) it sees; empty means all. Benign and
    task rows are seen whatever their category."""
    sources: Annotated[tuple[str, ...], AsTuple, Field(json_schema_extra=LATER)] = ()
    """Sources whose rows it sees, by name; empty means all."""

    @model_validator(mode="before")
    @classmethod
    def _loop_has_its_fields(cls, data: object) -> object:
        """Say where a field of the loop belongs that was written beside it."""
        if not isinstance(data, dict):
            return data
        strays = {
            name: OLD_WORDS.get(name, name)
            for name in data
            if name not in cls.model_fields and OLD_WORDS.get(name, name) in Loop.model_fields
        }
        if strays:
            fields = {new: data[old] for old, new in strays.items()}
            raise ConfigError(
                next(iter(strays)), "is a field of the loop", f"write loop: {_yaml(fields)}"
            )
        return data

    def copies(self) -> int:
        """Give how many frozen copies of the model it keeps beside the one it changes."""
        return 0

    def vectors(self) -> int:
        """Give how many vectors as large as the gradient a step holds beside it."""
        return 0

    def sees(self, pool: Pool) -> Pool:
        """Give the pool without the rows of other `sources`, without the restricted rows of other
        `categories`, and without rows that would teach nothing.

        Raises:
            ConfigError: no row of the pool is of such a source, no restricted one of a category.
        """
        seen = pool.brought_by(self.sources, f"{self.name()}.sources")
        seen = seen.only(self.categories, f"{self.name()}.categories")
        return seen.answered(besides=self.writes_answers())

    def writes_answers(self) -> tuple[str, ...]:
        """Give the roles whose rows need no response: it writes its own to their prompts."""
        return ()

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the rows of each role it trains on, from a pool of what it `sees`.

        Raises:
            DataError: there are too few, or none.
        """
        raise ConfigError(self.name(), "draws no rows", "write `rows`")

    def adapt(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Add modules for the time of training; leave the model as it was found."""
        return contextlib.nullcontext()

    def setup(self, run: Run) -> State:
        """Make what the whole run needs (a trigger, a teacher, a probe); its FLOPs count."""
        return None

    def begin(self, run: Run, params: Mapping[str, Tensor], state: State) -> State:
        """Give the state that the steps read, from what `setup` made; by default the same.

        Called once the adapter of LoRA is on, before the first step and again before a run
        continues, each time with the weights as they were at the start; its FLOPs count.

        Args:
            params: what is trained, by name: the adapter's tensors under LoRA, else the model's.
        """
        return state

    def on_step(self, step: int, state: State) -> None:
        """Change what changes over time, before step `step` (from 0)."""

    def enough(self, run: Run, state: State) -> Enough | None:
        """Give what says, after a step, that training may end; by default it takes every step.

        What it reads must be a function of the weights and the run: it is asked again when a run
        continues.
        """
        return None

    def counts(self, batch: Batch, state: State) -> dict[str, float] | None:
        """Give each term's count without a forward pass, or None to have it measured."""
        return None

    def loss(self, model: PreTrainedModel, batch: Batch, state: State) -> Loss:
        """Give the terms of one micro-batch; the step is the gradient of their sum."""
        raise ConfigError(self.name(), "has no loss", "write `loss` or `gradient`")

    def gradient(
        self,
        model: PreTrainedModel,
        step: Step,
        state: State,
    ) -> tuple[ParamVector, Loss]:
        """Give the gradient of a whole optimiser step and the terms to log, in place of `loss`."""
        raise ConfigError(self.name(), "has no gradient", "write `loss` or `gradient`")

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Give what an optimiser step costs, by the rows of each role in it.

        By default every row goes forward and backward once, the head asked where answers are; and
        forward once more where micro-batches are counted by a pass (`counts` gives None).
        """
        once = sum((passed(some) for some in rows.values()), Effort())
        asked = self.loop.split and not self.writes("counts") and not self.writes("gradient")
        return once * (4 / 3) if asked else once

    def effort_before(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Give what is done before the first step (`setup`, `begin`); by default nothing.

        Args:
            rows: those of a step of `loop`.
        """
        return Effort()

    @classmethod
    def writes(cls, hook: str) -> bool:
        """Say whether a hook, such as `gradient`, is the method's own."""
        return getattr(cls, hook) is not getattr(Trainable, hook)


def _yaml(value: object) -> str:
    """Spell plain data as a line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(one)}" for name, one in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
