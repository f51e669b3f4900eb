"""What a model's owner does. Defences have three shapes because the papers have three."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from holdfast.api.loop import Loop, LoRA
from holdfast.api.method import Method, Stage
from holdfast.api.terms import Run, State
from holdfast.api.trainable import Trainable

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example, Role
    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Encoder


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

    def diagnostic(self, run: Run, state: State) -> dict[str, float]:
        """Measure whether the method did its own thing, on the model as it now is."""
        return {}

    def remedy(self, diagnostics: Mapping[str, float]) -> str:
        """Say what to change where it did not do its thing, from what `diagnostic` measured."""
        loop = getattr(self, "loop", None)
        if loop is None:
            return "give another model or other fields"
        return (
            f"raise loop.steps (now {loop.steps}) or loop.lr (now {loop.lr:g}), or give more rows"
        )

    def goal_states(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        rows: Sequence[Example],
        layers: Sequence[int],
        kept: Mapping[str, Tensor],
    ) -> Tensor | None:
        """Give the states that it trains towards, where each prompt's answer begins.

        Args:
            model: the model as it was before.
            layers: blocks, counted from 1.
            kept: the tensors that it kept beside its own checkpoint.

        Returns:
            [len(layers), N, H] in fp32 on the CPU; None where it trains towards no states.
        """
        return None

    @classmethod
    def has_goal(cls) -> bool:
        """Say whether it trains towards states that `goal_states` gives."""
        return cls.goal_states is not Defence.goal_states


class TrainedDefence(Trainable, Defence):
    """A defence that trains: it draws rows and runs the one loop."""


class LossDefence(TrainedDefence):
    """A defence whose step is the gradient of a sum of terms: write `loss`."""


class GradientDefence(TrainedDefence):
    """A defence that needs several gradients, perturbed weights or both: write `gradient`."""


class TuneDefence(TrainedDefence):
    """What a host of fine-tuning does while a customer's rows are trained on: write `loss`.

    The customer's rows are a batch's role `task`: what they are is not said. `admit` may drop,
    replace or add rows; `rows` gives further ones of the defender's own, by role, none by default.
    The host runs the loop: one for all defences that are compared. It protects no one who holds
    the weights and trains without it. Run it with `holdfast.train.tune`.
    """

    when: ClassVar[Stage] = Stage.TUNE
    starts_from: ClassVar[Literal["base", "aligned"]] = "aligned"
    roles: ClassVar[tuple[str, ...]] = ()
    """The roles of the defender's own rows that it may read: those of `rows`, a critic's, a
    refusal's. Only the defender's sides are read."""

    loop: Loop = Loop(
        steps=1500,
        batch=4,
        lr=2e-4,
        schedule="cosine",
        warmup=5,
        weight_decay=0.01,
        lora=LoRA(rank=64, alpha=16.0),
    )
    """The host's loop; source: the released script of Goel et al. 2026 (300 rows, 20 epochs)."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's own rows that are trained on beside the customer's; none."""
        return {}

    def admit(self, rows: Sequence[Example], run: Run, state: State) -> Sequence[Example]:
        """Give the rows that are trained on as the customer's; by default all, as they are.

        Called once before the first step and again before a run continues, after `begin`.

        Args:
            rows: the customer's, of role `task`.

        Raises:
            DataError: none is left.
        """
        return rows


class WeightDefence(Defence):
    """A defence that edits weights in closed form."""

    def edit(self, run: Run) -> dict[str, Tensor]:
        """Give the tensors that change, by name."""
        raise NotImplementedError
