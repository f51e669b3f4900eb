"""What a model does to its logits behind the head: a scale of its own, then a soft cap.

N positions, H hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Linear

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
"""Fields of a config by which logits are multiplied (Cohere; Falcon H1; Muse)."""
DIVISOR = "logits_scaling"
"""The field by which Granite's logits are divided."""
MULTIPLIES = "hyperclovax"
"""Architectures so called multiply by the field that Granite divides by."""


def logit_scale(model: PreTrainedModel) -> float:
    """Give the factor between the head's output and the model's logits; 1 where it has none.

    Source: the architectures' own code in transformers 5.
    """
    config = model.config.get_text_config()
    scale = 1.0
    for name in FACTORS:
        value = getattr(config, name, None)
        if isinstance(value, int | float):
            scale *= value
    value = getattr(config, DIVISOR, None)
    if isinstance(value, int | float):
        scale *= value if config.model_type.startswith(MULTIPLIES) else 1 / value
    return scale


def logit_cap(model: PreTrainedModel) -> float | None:
    """Give the soft cap c of the scaled logits z, c tanh(z / c), or None where there is none."""
    return getattr(model.config.get_text_config(), "final_logit_softcapping", None)


def is_plain_head(model: PreTrainedModel) -> bool:
    """Say whether the head is a linear layer and nothing else, so that it may be run in chunks."""
    head = model.get_output_embeddings()
    return type(head) is Linear and not head._forward_hooks and not head._forward_pre_hooks


def logits_of(model: PreTrainedModel, last: Tensor) -> Tensor:
    """Give the model's own logits from states behind the final norm, [N, H] -> [N, V]."""
    logits = model.get_output_embeddings()(last)
    scale, cap = logit_scale(model), logit_cap(model)
    if scale != 1:
        logits = scale * logits
    return cap * torch.tanh(logits / cap) if cap else logits


def head_parts(model: PreTrainedModel, last: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give states [N, H], weight [V, H] and bias [V] whose product is the logits before the cap."""
    head, scale = model.get_output_embeddings(), logit_scale(model)
    if scale == 1:
        return last, head.weight, head.bias
    # s (W h + b) = W (s h) + s b: no logit is touched twice.
    bias: Tensor | None = head.bias
    return last * scale, head.weight, None if bias is None else bias * scale
