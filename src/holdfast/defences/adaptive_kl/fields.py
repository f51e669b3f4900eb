"""How risk becomes the weight of the leash: the schedule's fields, and what `auto` settles on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from holdfast import nn
from holdfast.api import Fields, Run, Share
from holdfast.api.lazy import torch
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.nn import Critic


class Schedule(Fields):
    """From a row's risk s in [0, 1] to beta, the weight of its KL; its cross-entropy has 1 - beta.

    `ramp`: (1 + 4 s - start) / (full - start), clipped to [low, high]; `affine`: low + (high - low)
    s; `constant`: high; `auto`: high from a threshold on and low below it, where the threshold is
    the highest that `recall` of the defender's held-out harmful rows reach (so that as few clean
    rows as can be pay for it) and high is 1 - leak.
    """

    kind: Literal["ramp", "affine", "constant", "auto"] = "ramp"
    """Its shape. Source: `ramp` is the released code's, `affine` the paper's, `auto` ours."""
    low: Share = 0.1
    """Least beta; source: the released code."""
    high: Share = 0.9
    """Highest beta; source: the released code. `auto` sets it by `leak` in its place."""
    start: float = 2.0
    """`ramp`: the grade, from 1 to 5, at which beta would be 0; source: the released code."""
    full: float = 5.0
    """`ramp`: the grade at which beta would be 1; source: the released code."""
    recall: Share = 0.99
    """`auto`: share of held-out harmful rows that must be held tight; source: ours."""
    leak: Share = 0.1
    """`auto`: most mass that may stay on a risky row's own opening, by the mixture law; source:
    ours, 0.1 as the released code's highest beta leaves."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low > self.high and self.kind != "constant":
            raise ConfigError("schedule.low", f"{self.low:g} is above high", "put it below")
        if self.full <= self.start:
            raise ConfigError("schedule.full", f"{self.full:g} is not above start", "put it above")
        if self.kind == "auto" and 1 - self.leak < self.low:
            raise ConfigError("schedule.leak", "leaves less than low to hold with", "lower it")
        return self


@dataclass(frozen=True)
class Settled:
    """A schedule ready for use: with `auto`, its threshold and strength are chosen."""

    schedule: Schedule
    threshold: float = 0.0

    @property
    def is_off(self) -> bool:
        """Say whether no row is ever held: beta is 0 whatever the risk."""
        return self.schedule.high == 0 and self.schedule.kind != "auto"

    def beta(self, risk: Tensor) -> Tensor:
        """Give beta of each row, [R], in fp32."""
        own = self.schedule
        if own.kind == "ramp":
            return nn.ramp(risk, own.start, own.full, (own.low, own.high))
        if own.kind == "affine":
            return nn.affine(risk, own.low, own.high)
        if own.kind == "constant":
            return nn.constant(risk, own.high)
        return nn.stepped(risk, self.threshold, own.low, 1 - own.leak)


def settle(schedule: Schedule, critic: Critic, run: Run) -> Settled:
    """Choose what `auto` leaves open, on the defender's held-out rows; log what was found.

    Raises:
        DataError: there are no held-out harmful, or no clean, rows.
    """
    if schedule.kind != "auto":
        return Settled(schedule)
    risky, clean = nn.held_out(critic.risk.scorers(), run, f"{run.where}.schedule")
    scores = critic.score([*risky, *clean], run)
    harmful, harmless = scores[: len(risky)], scores[len(risky) :]
    threshold, reached, false = nn.operating_point(harmful, harmless, schedule.recall)
    made = Settled(schedule, threshold)
    run.log(
        auto_threshold=threshold,
        auto_strength=1 - schedule.leak,
        auto_recall=reached,
        auto_false_positives=false,
        auto_clean_beta=float(made.beta(torch.tensor(harmless)).mean()),
    )
    critic.seen.clear()  # what is told later is of the customer's rows alone
    critic.failed.clear()
    return made
