"""Take a defence's diagnostic on any model, such as one that another defence made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.api import Defence, Run, TrainedDefence
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.nn.weights import DTYPES, cast
from holdfast.train.training import left_as_found

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


def measure(
    defence: Defence,
    model: PreTrainedModel,
    encoder: Encoder,
    pool: Pool,
    *,
    seed: int,
    sources: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> dict[str, float]:
    """Give what `defence.diagnostic` says of a model it did not make; its weights stay.

    The model is held in the dtype the defence trains in, as its own model was when measured, and
    stays in it.

    Args:
        sources: `start` (the model before it was hardened), `original`, and `kept` (the tensors
            that the defence kept beside its own checkpoint, a trigger) as tensor mappings.
    """
    if isinstance(defence, TrainedDefence):
        cast(model, DTYPES[defence.loop.precision])
    model.eval()
    seen = defence.sees(pool)
    run = Run(model, encoder, seen, seed, models=dict(sources or {}), where=defence.name())
    with left_as_found(model), torch.no_grad():
        return defence.diagnostic(run, None)
