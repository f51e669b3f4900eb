"""The two moments of Adam, which whoever steps weights by AdamW keeps."""

from __future__ import annotations

from torch import Tensor


def moments(first: Tensor, second: Tensor, slope: Tensor, beta1: float, beta2: float) -> None:
    """Move both moments by a step along `slope`, in place; all of one shape.

    m <- b1 m + (1 - b1) g, v <- b2 v + (1 - b2) g^2.
    """
    first.lerp_(slope, 1 - beta1)
    second.mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
