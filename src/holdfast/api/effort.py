"""What a step costs before anything is run: tokens that pass through the blocks and the head.

A token that goes forward through all blocks passes once; backward it passes twice, or once where
only inputs need a gradient. `holdfast.nn.FlopMeter` counts the same while a step runs: 2 x weights
x tokens for each pass. Attention's own products and element-wise work are left out of both.
"""

from __future__ import annotations

from dataclasses import dataclass

TRAINED = 3.0
"""Passes of a token whose weights are trained: forward once, backward twice."""
CONSTANT = 2.0
"""Passes of a token where only inputs need a gradient: forward once, backward once."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one role in a step: how many, and the mean tokens of a prompt and of an answer."""

    number: float
    prompt: float
    response: float

    @property
    def tokens(self) -> float:
        """Give all their tokens."""
        return self.number * (self.prompt + self.response)

    @property
    def said(self) -> float:
        """Give the tokens of their answers."""
        return self.number * self.response


@dataclass(frozen=True, slots=True)
class Blocks:
    """What of a model's shape decides a step's passes: its blocks, and attention's share of one."""

    depth: int
    attention: float = 0.0


@dataclass(frozen=True, slots=True)
class Effort:
    """Tokens times passes, through all blocks (`body`) and through the head."""

    body: float = 0.0
    head: float = 0.0

    def __add__(self, other: Effort) -> Effort:
        """Give both."""
        return Effort(self.body + other.body, self.head + other.head)

    def __mul__(self, times: float) -> Effort:
        """Give it so many times."""
        return Effort(self.body * times, self.head * times)

    def flops(self, body: float, head: float) -> float:
        """Give its FLOPs: 2 x weights x tokens a pass, by the weights of blocks and head."""
        return 2.0 * (self.body * body + self.head * head)


def passed(rows: Rows, times: float = TRAINED) -> Effort:
    """Give rows that pass so often, the head asked where answers are emitted."""
    return Effort(rows.tokens * times, rows.said * times)


def to_outputs(rows: Rows, of: Blocks, first: float = 0, share: float = 1.0) -> Effort:
    """Give a pass forward, and back through inputs alone as far as some layers' outputs.

    Args:
        first: the first of those layers, from 0.
        share: how much of its block lies before that output, by weights.
    """
    behind = (of.depth - first - share) / of.depth
    return Effort(rows.tokens * (1 + behind), rows.said * CONSTANT)
