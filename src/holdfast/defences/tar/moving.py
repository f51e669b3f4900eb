"""Weights that walk in place along an attacker's steps, and are put back bit for bit.

The step is written out here: torch's AdamW wants parameters that ask for a gradient and hold one,
a walk moves plain tensors (fp32 masters of weights held in less) along a gradient held elsewhere;
and torch rounds in another order, which would move the committed trajectories.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from holdfast.nn.adam import moments
from holdfast.nn.vectors import realised, survived

BETAS = (0.9, 0.999)
"""The attacker's moment decays; source: Loshchilov and Hutter 2019, torch's defaults."""
EPS = 1e-8
"""The attacker's epsilon; source: torch's default."""


def adamw_step(
    weight: Tensor,
    slope: Tensor,
    first: Tensor,
    second: Tensor,
    number: int,
    *,
    rate: float,
    decay: float = 0.0,
) -> None:
    """Move `weight` by step `number` (from 1) of AdamW along `slope`; all of one shape, in place.

    With the moments m and v of `moments`:
    w <- (1 - rate decay) w - rate m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps).
    """
    b1, b2 = BETAS
    moments(first, second, slope, b1, b2)
    size = (second / (1 - b2**number)).sqrt_().add_(EPS)
    weight.mul_(1 - rate * decay).addcdiv_(first, size, value=-rate / (1 - b1**number))


class Moving:
    """Where the weights are on their walk: fp32 masters of what is held in less, and moments.

    Weights held in fp32 or fp64 are their own masters and move where they stand.
    """

    def __init__(self, params: Mapping[str, Tensor], optimiser: Literal["adamw", "sgd"]) -> None:
        self._params, self._adam = dict(params), optimiser == "adamw"
        self._saved = {name: p.detach().clone() for name, p in params.items()}
        wide = (torch.float32, torch.float64)
        self._masters = {
            name: p.detach() if p.dtype in wide else p.detach().float()
            for name, p in params.items()
        }
        self._moments: dict[str, tuple[Tensor, Tensor]] = {}
        self._number = 0

    def step(self, slope: Mapping[str, Tensor], rate: float, decay: float = 0.0) -> None:
        """Move every weight along `-slope`: by AdamW, or by `-rate * slope`.

        Args:
            decay: AdamW's decoupled weight decay; plain descent has none.
        """
        self._number += 1
        for name, master in self._masters.items():
            g = slope[name]
            if self._adam:
                if name not in self._moments:
                    self._moments[name] = (torch.zeros_like(master), torch.zeros_like(master))
                first, second = self._moments[name]
                adamw_step(master, g, first, second, self._number, rate=rate, decay=decay)
            else:
                master.add_(g, alpha=-rate)
            p = self._params[name]
            if p.dtype != master.dtype:
                with torch.no_grad():
                    p.copy_(master)

    def survived(self, where: str) -> dict[str, float]:
        """Give cosine and norm ratio of the way that products read against the way meant.

        Raises:
            TrainingError: either is below 0.9: rounding has eaten the walk.
        """
        device = next(iter(self._params.values())).device.type
        read = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        sums = [0.0, 0.0, 0.0]
        own = all(p.dtype == self._masters[name].dtype for name, p in self._params.items())
        if own and read is None:  # they walked themselves: nothing can be lost
            return {"cosine": 1.0, "norm_ratio": 1.0}
        for name, p in self._params.items():
            found = realised(p, self._saved[name], self._masters[name], read)
            sums = [a + b for a, b in zip(sums, found, strict=True)]
        return survived(sums[0], sums[1], sums[2], where)

    def back(self) -> None:
        """Put every weight back by copy."""
        with torch.no_grad():
            for name, p in self._params.items():
                p.copy_(self._saved[name])


@contextmanager
def moving(
    params: Mapping[str, Tensor], optimiser: Literal["adamw", "sgd"] = "adamw"
) -> Generator[Moving]:
    """Let `params` walk in place inside; afterwards they stand where they stood, bit for bit."""
    walk = Moving(params, optimiser)
    try:
        yield walk
    finally:
        walk.back()
