"""Layers by number or by fraction of depth: layer k is the state after k blocks."""

from __future__ import annotations

from holdfast.errors import ConfigError


def layer_number(layer: float, depth: int, where: str) -> int:
    """Give k, 1 to `depth`: a whole number is k itself, a float the nearest to that share of depth.

    Raises:
        ConfigError: a number beyond the model's depth.
    """
    if isinstance(layer, float):
        return max(1, round(layer * depth))
    if not 1 <= layer <= depth:
        raise ConfigError(
            where,
            f"layer {layer} is beyond the model's {depth} blocks",
            f"use 1 to {depth}, or a fraction of depth such as 0.5",
        )
    return layer
