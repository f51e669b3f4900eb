"""What a model's owner does. Defences have three shapes because the papers have three."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast.api.loop import Loop
from holdfast.api.method import Method, Stage
from holdfast.api.terms import Batch, Loss, Run, Step

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example, Role
    from holdfast.data.pool import Pool
    from holdfast.nn.vectors import ParamVector


class Defence(Method):
    """What a model's owner does to make it harder to misuse."""

    kind: ClassVar[str] = "defence"
    when: ClassVar[Stage] = Stage.ALIGN
    roles: ClassVar[tuple[str, ...]] = ()
    """The roles its rows are drawn from: exactly these are read."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Which of `original`, `start`, `tuned`, `unaligned` it reads from `run.models`."""
    starts_from: ClassVar[Literal["base", "aligned"]] = "base"
    plain: ClassVar[Mapping[str, float]] = {}
    """What its `neutral` point equals: the cross-entropies of these roles, with these weights."""
    separable: ClassVar[bool] = True
    """Whether a step's gradient is the same however it is split into micro-batches."""
    paper: ClassVar[str] = ""
    equation: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    """Cost of an optimiser step in forward (F) and backward (B) passes."""
    signal: ClassVar[str] = ""
    """The diagnostic that tells whether the method did its own thing."""
    moves: ClassVar[Literal["up", "down"]] = "up"
    """Where `signal` goes, beside plain refusal fine-tuning, when it did."""

    def copies(self) -> int:
        """Give how many frozen copies of the model it keeps beside the one it changes."""
        return 0

    def setup(self, run: Run) -> Any:
        """Make what the whole run needs (a trigger, a teacher, a probe)."""
        return None

    def apply(self, model: Any, tokenizer: Any, pool: Pool, **options: Any) -> Any:
        """Harden a model in memory; see `holdfast.train.apply` for the options.

        The import goes by name because training stands above methods: this is the one door up.
        """
        return importlib.import_module("holdfast.train").apply(
            self, model, tokenizer, pool, **options
        )

    def adapt(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Add modules for the time of training; leave the model as it was found."""
        return contextlib.nullcontext()

    def on_step(self, step: int, state: Any) -> None:
        """Change what changes over time, before step `step` (from 0)."""

    def counts(self, batch: Batch, state: Any) -> dict[str, float] | None:
        """Give each term's count without a forward pass, or None to have it measured."""
        return None

    def diagnostic(self, run: Run, state: Any) -> dict[str, float]:
        """Measure whether the method did its own thing, on the model as it now is."""
        return {}


class TrainedDefence(Defence):
    """A defence that trains: it draws rows and runs the one loop."""

    loop: Loop = Loop()
    """How it trains: steps, batch, learning rate, precision, LoRA."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the rows of each role it reads."""
        raise NotImplementedError


class LossDefence(TrainedDefence):
    """A defence whose step is the gradient of a sum of terms."""

    def loss(self, model: PreTrainedModel, batch: Batch, state: Any) -> Loss:
        """Give the terms of one micro-batch."""
        raise NotImplementedError


class GradientDefence(TrainedDefence):
    """A defence that needs several gradients, perturbed weights or both."""

    def gradient(self, model: PreTrainedModel, step: Step, state: Any) -> tuple[ParamVector, Loss]:
        """Give the gradient of a whole optimiser step and the terms to log."""
        raise NotImplementedError


class WeightDefence(Defence):
    """A defence that edits weights in closed form."""

    def edit(self, run: Run) -> dict[str, Tensor]:
        """Give the tensors that change, by name."""
        raise NotImplementedError
