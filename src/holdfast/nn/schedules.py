"""From a row's risk to the weights of its two losses: schedules, aggregation, smoothing.

Risk s lies in [0, 1]; beta is the weight of the KL, alpha = 1 - beta of the cross-entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["per_sample", "batch_mean", "batch_max", "first_row"]


def ramp(
    risk: Tensor, start: float = 2.0, full: float = 5.0, clip: tuple[float, float] = (0.1, 0.9)
) -> Tensor:
    """Give beta = clip((r - start) / (full - start)) with r = 1 + 4 risk, a judge's 1 to 5; [R].

    Source of the defaults: the released code of Goel et al. 2026.
    """
    grade = 1 + 4 * risk
    return ((grade - start) / (full - start)).clamp(*clip)


def affine(risk: Tensor, low: float = 0.1, high: float = 0.9) -> Tensor:
    """Give beta = low + (high - low) risk, [R]; source: Goel et al. 2026, the paper's form."""
    return low + (high - low) * risk


def constant(risk: Tensor, strength: float) -> Tensor:
    """Give the same beta whatever the risk, [R]."""
    return torch.full_like(risk, strength)


def stepped(risk: Tensor, threshold: float, low: float, high: float) -> Tensor:
    """Give beta `high` from `threshold` on, `low` below it, [R]."""
    return torch.where(risk >= threshold, high, low).to(risk.dtype)


def aggregated(risk: Tensor, how: Aggregation) -> Tensor:
    """Give each row's own risk, or for all rows of a pass the mean, the maximum or the first's.

    One risky row among many vanishes in a mean: 1 of 8 at grade 5 leaves beta at its floor.
    """
    if how == "per_sample" or not len(risk):
        return risk
    one = {"batch_mean": risk.mean(), "batch_max": risk.max(), "first_row": risk[0]}[how]
    return one.expand_as(risk)


def smoothed(risk: Tensor, level: float, keep: float) -> Tensor:
    """Give max(s, keep level + (1 - keep) s): a rise acts at once, a fall slowly; [R].

    Args:
        level: the mean smoothed risk of the step before.
        keep: how much of it stays; 0 changes nothing.
    """
    return torch.maximum(risk, keep * level + (1 - keep) * risk)


def operating_point(
    risky: Sequence[float], clean: Sequence[float], recall: float
) -> tuple[float, float, float]:
    """Give the highest threshold that `recall` of the risky reach, that recall, and the clean's
    share that reaches it too.
    """
    ordered = sorted(risky)
    threshold = ordered[min(len(ordered) - 1, int((1 - recall) * len(ordered) + 1e-9))]
    reached = sum(s >= threshold for s in risky) / len(risky)
    false = sum(s >= threshold for s in clean) / len(clean) if clean else 0.0
    return threshold, reached, false
