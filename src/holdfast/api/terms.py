"""What training hands to a method, and what a method gives back: batches, terms, the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.api.loop import Loop
    from holdfast.data.example import Example, Role
    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Encoder, Tokens


@dataclass
class Term:
    """One summand of a loss: `weight * sum / count`, its sums and counts added over a step.

    The loop adds `sum` and `count` over all micro-batches of an optimiser step before dividing,
    so that splitting a step changes nothing. `unit` says what `count` counts. A term with
    `once=True` is added once per optimiser step (it does not depend on rows).
    """

    sum: Tensor
    count: float
    weight: float = 1.0
    unit: Literal["tokens", "rows", "pairs"] = "rows"
    once: bool = False


Loss = dict[str, Term]


State = Any
"""What a method's `setup` and `begin` made: of a type of the method's own, which it alone reads."""


Batch = Mapping["Role", "Tokens"]


Step = Mapping["Role", Sequence["Tokens"]]


Enough = Callable[[int], bool]
"""Says, after a step with its number (from 1), whether training may end there: the same answer
whenever it is asked about the same weights."""


class Fit(Protocol):
    """Train tensors that are no weights of the model, in place: a trigger, a probe.

    It is the loop that trains the model too (`holdfast.train.loop.optimise`), with the run's
    encoder, seed, FLOP meter, log and checkpoints: this stage can be resumed like any other.
    """

    def __call__(
        self,
        name: str,
        params: Mapping[str, Tensor],
        loss: Callable[[Batch, int], Loss],
        rows: Mapping[Role, list[Example]],
        loop: Loop,
        enough: Enough | None = None,
    ) -> int:
        """Run `loop.steps` steps, or until `enough`; give how many were taken.

        Args:
            name: what the stage is called in the log and in the work folder.
            params: leaf tensors by name.
            loss: a micro-batch and the step's number (from 0) -> its terms.
            rows: each role's rows.
            loop: how it trains.
            enough: ends the training early; None never does.
        """
        ...


def no_trainer(
    name: str,
    params: Mapping[str, Tensor],
    loss: Callable[[Batch, int], Loss],
    rows: Mapping[Role, list[Example]],
    loop: Loop,
    enough: Enough | None = None,
) -> int:
    """Refuse to train: the run was made outside `holdfast.train`."""
    raise ConfigError(name, "has no trainer", "call the method through holdfast.train")


class Others(dict[str, "Mapping[str, Tensor]"]):
    """Other models by what they are to this one; one that is not there says how to ask for it."""

    def __missing__(self, name: str) -> Mapping[str, Tensor]:
        raise ConfigError(
            "run.models",
            f"holds no '{name}' model (it has: {', '.join(self) or 'none'})",
            f'declare it in the method: needs = ("{name}",)',
        )


@dataclass
class Run:
    """What a method is handed when its work starts: the model and everything around it.

    `models` holds `original` and `start` as lazy tensor mappings by name; on a model that another
    method made also `kept`, what this one kept beside its own checkpoint.
    `log(**values)` adds a line to the run's JSONL log.
    """

    model: PreTrainedModel
    encoder: Encoder
    pool: Pool
    seed: int
    models: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    log: Callable[..., None] = lambda **_: None
    where: str = "run"
    fit: Fit = no_trainer
    """Trains a stage of the method's own."""
    work: Path | None = None
    """A folder that lasts until the run is finished, for what must be found again when it
    continues; None: nothing is kept."""

    def __setattr__(self, name: str, value: object) -> None:
        """Keep `models` as what says how a missing one is asked for."""
        is_models = name == "models" and isinstance(value, Mapping)
        super().__setattr__(name, Others(value) if is_models else value)
