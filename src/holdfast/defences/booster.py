"""Booster (Huang et al., ICLR 2025): make one step of harmful descent useless."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from holdfast import models
from holdfast.data.example import Example, Role, Side
from holdfast.errors import TrainingError
from holdfast.lazy import torch
from holdfast.method import GradientDefence, Loss, Run, Step, Term
from holdfast.run import Count, Loop, NotNegative, Positive
from holdfast.run import seed as seed_of

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Tokens
    from holdfast.models.vectors import ParamVector


def booster_gradient(
    align: ParamVector, harm: ParamVector, harm_after: ParamVector, lam: float
) -> ParamVector:
    """Give g = grad f + lam * (grad h(w) - grad h(w - alpha grad h / |grad h|)).

    The inner step's Jacobian is taken as the identity (Huang et al. 2025, Eq. 3). `harm` is used
    up: its buffer becomes the result.
    """
    return harm.add_(harm_after, -1.0).scale_(lam).add_(align)


class Booster(GradientDefence):
    """Minimise f(w) + lam * [h(w) - h(w - alpha * grad h / |grad h|)], first order."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "harmful")
    paper: ClassVar[str] = "arXiv 2409.01586"
    equation: ClassVar[str] = "f(w) + lam * [h(w) - h(w - alpha * grad h / |grad h|_2)]"
    cost: ClassVar[str] = "3F + 3B; two gradient copies"
    neutral: ClassVar[dict[str, Any]] = {"lam": 0.0}

    lam: NotNegative = 5.0
    """Weight of the attenuated harmful drop; source: the released script (lamb 5)."""
    alpha: Positive = 0.1
    """L2 length of the simulated step; source: the released script."""
    n: Count | None = None
    """Distinct prompts, each with a refusal and a harmful answer; None takes all."""
    loop: Loop = Loop(steps=10_000, batch=10, lr=5e-4, weight_decay=0.1)
    """Source: the released script (20 epochs of 5,000, batch 10, 5e-4 constant, decay 0.1)."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw prompts that have both answers, as the original's data has."""
        pairs = pool.paired(
            Role.REFUSAL, Role.HARMFUL, Side.DEFENDER, self.n, seed_of(seed, "draw")
        )
        return {
            Role.REFUSAL: [refusal for refusal, _ in pairs],
            Role.HARMFUL: [harmful for _, harmful in pairs],
        }

    def gradient(self, model: PreTrainedModel, step: Step, state: Any) -> tuple[ParamVector, Loss]:
        """Give the gradient of the whole step; exact however the step is split."""
        params = models.trainable(model)

        def mean(name: str) -> Any:
            def loss(tokens: Tokens) -> Loss:
                value, count = models.nll(model, tokens)
                return {name: Term(value, count, 1.0, "tokens")}

            return loss

        def counts(name: str) -> Any:
            return lambda tokens: {name: float((tokens.labels != -100).sum())}

        align, terms = models.grad(params, mean("align"), step[Role.REFUSAL], counts("align"))
        harm, before = models.grad(params, mean("harm"), step[Role.HARMFUL], counts("harm"))
        norm = harm.norm()
        if norm == 0.0:
            raise TrainingError(
                self.name(), "the harmful gradient is 0", "check the harmful rows and the precision"
            )
        with models.shifted(model, harm, -self.alpha / norm, where=self.name()):
            after, later = models.grad(
                params, mean("harm_after"), step[Role.HARMFUL], counts("harm_after")
            )
        terms |= before | later
        terms["harm"].weight = self.lam
        terms["harm_after"].weight = -self.lam
        return booster_gradient(align, harm, after, self.lam), terms

    def diagnostic(self, run: Run, state: Any) -> dict[str, float]:
        """Measure how far the harmful loss falls after one simulated step; Booster lowers it.

        Empty where the pool has no harmful rows on the defender's selection side.
        """
        if not run.pool.has(Role.HARMFUL, Side.DEFENDER_SELECTION):
            return {}
        rows = run.pool.draw(Role.HARMFUL, Side.DEFENDER_SELECTION, None, seed_of(run.seed, "draw"))
        tokens = run.encoder.batch(rows)
        params = {name: p.requires_grad_(True) for name, p in run.model.named_parameters()}

        def loss(part: Tokens) -> Loss:
            value, count = models.nll(run.model, part)
            return {"harm": Term(value, count, 1.0, "tokens")}

        with torch.enable_grad():
            harm, before = models.grad(params, loss, [tokens])
        with models.shifted(run.model, harm, -self.alpha / harm.norm(), where=self.name()):
            value, count = models.nll(run.model, tokens)
        first = float(before["harm"].sum) / before["harm"].count
        return {"harm_loss": first, "harm_loss_drop": first - float(value) / count}
