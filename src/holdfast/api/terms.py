"""What training hands to a method, and what a method gives back: batches, terms, the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Role
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


Batch = Mapping["Role", "Tokens"]


Step = Mapping["Role", Sequence["Tokens"]]


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
    fit: Callable[..., None] | None = None
    """`fit(name, params, loss, rows, loop)` trains tensors that are no weights of the model (a
    trigger, a probe) in place, on the one loop, resumable; `loss(batch, step)` gives terms."""
