"""What a model does to its logits behind the head: a scale of its own, then a soft cap."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
