"""Draws that depend on a seed, a row and a draw, and not on who shares the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import LogitsProcessor, TopPLogitsWarper

from holdfast.api import seed as seed_of

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.evaluate.sampler import Sampler


class Noise(LogitsProcessor):
    """Turns a greedy choice into a draw, by the Gumbel-max trick.

    Each answer has a generator of its own and takes one vector of noise a step. The likeliest token
    of `log p + g`, with standard Gumbel noise `g`, is a draw from `p`; the temperature and `top_p`
    make `p` first. A little rounding changes a draw as seldom as it changes a greedy choice.

    Args:
        names: the uid of each row of the batch, and which of its draws it is.
        seed: the study seed.
    """

    def __init__(
        self, sampler: Sampler, names: Sequence[tuple[str, int]], seed: int, device: torch.device
    ) -> None:
        self._temperature = sampler.temperature
        self._cut = TopPLogitsWarper(sampler.top_p) if sampler.top_p < 1 else None
        self._own = [
            torch.Generator(device).manual_seed(seed_of(seed, "sampling", uid, draw))
            for uid, draw in names
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Give scores `[B, V]` whose largest entry in each row is the token drawn."""
        scores = scores / self._temperature
        if self._cut is not None:
            scores = self._cut(input_ids, scores)
        # In fp32 a draw of exactly 0, which wins whatever its token, comes about once in 2^24.
        waits = torch.empty(scores.shape, dtype=torch.float64, device=scores.device)
        for row, own in zip(waits, self._own, strict=True):
            row.exponential_(generator=own)
        return scores.double() - waits.log()
