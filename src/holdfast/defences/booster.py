"""Booster (Huang et al., ICLR 2025): make one step of harmful descent useless."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast import nn
from holdfast.api import (
    Blocks,
    Count,
    Effort,
    GradientDefence,
    Loop,
    Loss,
    NotNegative,
    Positive,
    Rows,
    Run,
    Step,
    Term,
    passed,
)
from holdfast.api import seed as seed_of
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.data.tokens import IGNORE
from holdfast.errors import TrainingError

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Tokens
    from holdfast.nn.vectors import ParamVector


PART = 8
"""Rows of one pass of the diagnostic."""


class Booster(GradientDefence):
    """Minimise f(w) + lam * [h(w) - h(w - alpha * grad h / |grad h|)], first order."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "harmful")
    paper: ClassVar[str] = "arXiv 2409.01586"
    equation: ClassVar[str] = "f(w) + lam * [h(w) - h(w - alpha * grad h / |grad h|_2)]"
    cost: ClassVar[str] = "3F + 3B; one copy of the weights"
    fidelity: ClassVar[str] = (
        "formula and released script read; three passes as published, the norm over the "
        "whole step where theirs breaks accumulation; published numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    neutral: ClassVar[dict[str, Any]] = {"lam": 0.0}
    plain: ClassVar[dict[str, float]] = {"refusal": 1.0}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "released": {
            "loop": {
                "lora": {"rank": 32, "alpha": 4.0, "targets": "attention"},
                "precision": "fp32_master",
            }
        }
    }
    signal: ClassVar[str] = "harm_loss_drop"
    moves: ClassVar[Literal["up", "down"]] = "down"

    lam: NotNegative = 5.0
    """Weight of the attenuated harmful drop; source: the released script (lamb 5)."""
    alpha: Positive = 0.1
    """L2 length of the simulated step; source: the released script."""
    n: Count | None = None
    """Distinct prompts, each with a refusal and a harmful answer; None takes all."""
    loop: Loop = Loop(steps=10_000, batch=10, lr=5e-4, weight_decay=0.1, decay_norms=False)
    """Source: the released script (20 epochs of 5,000, batch 10, 5e-4 constant, decay 0.1, which
    its trainer keeps from norms)."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw prompts that have both answers, as the original's data has."""
        pairs = pool.paired(
            Role.REFUSAL, Role.HARMFUL, Side.DEFENDER, self.n, seed_of(seed, "draw")
        )
        return {
            Role.REFUSAL: [refusal for refusal, _ in pairs],
            Role.HARMFUL: [harmful for _, harmful in pairs],
        }

    def gradient(
        self, model: PreTrainedModel, step: Step, state: object
    ) -> tuple[ParamVector, Loss]:
        """Give g = grad f(w) + lam * (grad h(w) - grad h(w - alpha grad h / |grad h|)).

        The inner step's Jacobian is taken as the identity (Huang et al. 2025, Eq. 3). One buffer
        holds in turn grad h(w), the bracket and the result; the weights of `h` are restored by
        copy. Exact however the step is split.

        Raises:
            TrainingError: the harmful gradient is 0, the step is lost to rounding, or changes
                nothing.
        """
        params = nn.trainable(model)

        def pull(
            role: Role, name: str, into: ParamVector | None = None, scale: float = 1.0
        ) -> tuple[ParamVector, Loss]:
            loss, counts = _mean(model, name), _counts(name)
            return nn.grad(params, loss, step[role], counts, into=into, scale=scale)

        buffer, before = pull(Role.HARMFUL, "harm")
        norm = buffer.norm()
        if norm == 0.0:
            raise TrainingError(
                self.name(), "the harmful gradient is 0", "check the harmful rows and the precision"
            )
        with nn.shifted(model, buffer, -self.alpha / norm, where=self.name()):
            buffer, after = pull(Role.HARMFUL, "harm_after", into=buffer, scale=-1.0)
        self._moved(before["harm"], after["harm_after"])
        buffer, terms = pull(Role.REFUSAL, "align", into=buffer.scale_(self.lam))  # Eq. 3
        terms |= before | after
        terms["harm"].weight = self.lam
        terms["harm_after"].weight = -self.lam
        return buffer, terms

    def _moved(self, before: Term, after: Term) -> None:
        """Refuse a simulated step that changes no loss: Booster would be plain fine-tuning."""
        if float(before.sum) == float(after.sum):
            raise TrainingError(
                self.name(),
                f"the simulated step leaves the harmful loss at {float(after.sum) / after.count}",
                "use a larger alpha or precision: fp32",
            )

    def vectors(self) -> int:
        """Count the weights as they were before the simulated step."""
        return 1

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count the harmful rows before and after the simulated step, and the refusals."""
        return passed(rows["harmful"]) * 2 + passed(rows["refusal"])

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Measure how far the harmful loss falls after one simulated step; Booster lowers it.

        `harm_loss` in nats a token and `harm_loss_drop`, all weights moving. Empty where the pool
        has no harmful rows on the defender's selection side.
        """
        if not run.pool.has(Role.HARMFUL, Side.DEFENDER_SELECTION):
            return {}
        rows = run.pool.draw(Role.HARMFUL, Side.DEFENDER_SELECTION, None, seed_of(run.seed, "draw"))
        parts = [run.encoder.batch(rows[i : i + PART]) for i in range(0, len(rows), PART)]
        loss = _mean(run.model, "harm")
        with nn.all_trainable(run.model) as params:
            harm, before = nn.grad(params, loss, parts, _counts("harm"))
        first, norm = _only(before), harm.norm()
        if norm == 0.0:
            return {"harm_loss": first, "harm_loss_drop": 0.0}
        with (
            torch.no_grad(),
            nn.shifted(run.model, harm, -self.alpha / norm, where=self.name()),
        ):
            found = [nn.nll(run.model, part) for part in parts]
        second = float(sum(value for value, _ in found)) / sum(count for _, count in found)
        return {"harm_loss": first, "harm_loss_drop": first - second}


def _only(loss: Loss) -> float:
    """Give the mean of the one term there is."""
    (term,) = loss.values()
    return float(term.sum) / term.count


def _mean(model: PreTrainedModel, name: str) -> Callable[[Tokens], Loss]:
    """Give the cross-entropy of a batch as one term of that name."""

    def loss(tokens: Tokens) -> Loss:
        value, count = nn.nll(model, tokens)
        return {name: Term(value, count, 1.0, "tokens")}

    return loss


def _counts(name: str) -> Callable[[Tokens], dict[str, float]]:
    return lambda tokens: {name: float((tokens.labels != IGNORE).sum())}
