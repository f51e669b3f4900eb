"""Vaccine (Huang, Hu and Liu, NeurIPS 2024): learn refusals under the worst small embedding drift.

Every layer's output is pushed where the refusal's loss rises most, and the refusal is learnt there.
Symbols: L layers, e_l the output of layer l, B rows, T tokens, H width.
"""

from __future__ import annotations

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
    Rows,
    Run,
    Step,
    Term,
    passed,
    to_outputs,
)
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role, Side
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Tokens
    from holdfast.nn.perturb import Shifts
    from holdfast.nn.vectors import ParamVector

HELD_OUT = 96
"""Most held-out refusals the diagnostic looks at."""

_LOOP: dict[str, Any] = {
    "steps": 20_000,
    "batch": 5,
    "lr": 1e-3,
    "schedule": "cosine",
    "warmup": 2000,
    "weight_decay": 0.1,
    "decay_norms": False,
}


class Vaccine(GradientDefence):
    """Minimise CE(refusal) with eps_l = rho g_l / |g| added to every layer's output."""

    roles: ClassVar[tuple[str, ...]] = ("refusal",)
    separable: ClassVar[bool] = False
    paper: ClassVar[str] = "arXiv 2402.01109"
    equation: ClassVar[str] = (
        "min_w max_{|eps| <= rho} CE(D_ref; e_l + eps_l), eps_l = rho g_l / (|(g_1..g_L)| + 1e-7)"
    )
    cost: ClassVar[str] = "2F + 1B + 1B of inputs alone; the perturbations"
    fidelity: ClassVar[str] = (
        "paper and released code read; perturbs attention's output as the code, the block's "
        "as the preset `paper`; published numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    neutral: ClassVar[dict[str, Any]] = {"rho": 0.0}
    plain: ClassVar[dict[str, float]] = {"refusal": 1.0}
    signal: ClassVar[str] = "perturbed_loss"
    moves: ClassVar[Literal["up", "down"]] = "down"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"site": "block"},
        "released": {"n": 2000, "loop": _LOOP | {"lora": {"rank": 8, "alpha": 4.0}}},
    }

    rho: NotNegative = 2.0
    """L2 length of the perturbation over all layers, tokens and rows of a micro-batch together, so
    its strength hangs on their number; source: the released script's example."""
    site: Literal["attention", "block"] = "attention"
    """What is perturbed: `attention`, the attention module's output before the residual sum, as the
    released code does; `block`, the block's output, as the paper's "layer embedding" reads."""
    n: Count | None = None
    """Distinct refusal rows; None takes all of the defender's (the released script: 2,000)."""
    loop: Loop = Loop(**_LOOP)
    """Source: the released script (50 epochs of 2,000, batch 5, 1e-3 cosine, warm-up 0.1, decay
    0.1, which its trainer keeps from norms). Its adapter is in the preset `released`; its dropout
    of 0.1 is left out."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's refusals.

        Raises:
            ConfigError: compiled layers, which would not see a perturbation inside them.
        """
        if self.loop.compile_layers:
            raise ConfigError(
                f"{self.name()}.loop.compile_layers",
                "a compiled layer does not see what is added inside it",
                "turn it off",
            )
        draw = seed_of(seed, "draw")
        refusals = pool.draw(Role.REFUSAL, Side.DEFENDER, self.n, draw, what=self.name())
        return {Role.REFUSAL: refusals}

    def gradient(
        self, model: PreTrainedModel, step: Step, state: object
    ) -> tuple[ParamVector, Loss]:
        """Give the gradient at the perturbed outputs; the norm is each micro-batch's own.

        Raises:
            TrainingError: the perturbation is lost to rounding.
        """
        return nn.perturbed_grad(
            model,
            nn.trainable(model),
            step[Role.REFUSAL],
            lambda tokens: self._perturb(model, tokens),
            where=self.name(),
            site=self.site,
        )

    def _perturb(self, model: PreTrainedModel, tokens: Tokens) -> tuple[Shifts, Loss]:
        """Give the worst perturbation of a micro-batch, and its loss without it."""
        if self.rho == 0.0:
            return {}, {}
        found, value, count = nn.output_gradients(model, tokens, site=self.site)
        return nn.worst_case(found, self.rho), {"plain": Term(value, count, 0.0, "tokens")}

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count the perturbation's pass, back through inputs alone, and the trained one."""
        found = passed(rows["refusal"])
        if self.rho > 0:
            share = of.attention if self.site == "attention" else 1.0
            found += to_outputs(rows["refusal"], of, 0, share)
        return found

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Measure the held-out refusals' loss as it is and under the worst perturbation.

        Batches have the training's size, since rho means nothing apart from it. Empty where the
        pool has no refusals on the defender's selection side.
        """
        if not run.pool.has(Role.REFUSAL, Side.DEFENDER_SELECTION):
            return {}
        draw = seed_of(run.seed, "draw")
        rows = run.pool.draw(Role.REFUSAL, Side.DEFENDER_SELECTION, None, draw)[:HELD_OUT]
        size = self.loop.micro_batch or self.loop.batch
        plain, perturbed = nn.perturbed_loss(
            run.model,
            nn.equal_batches(run.encoder, rows, size),
            lambda tokens: self._perturb(run.model, tokens),
            site=self.site,
        )
        return {
            "plain_loss": plain,
            "perturbed_loss": perturbed,
            "perturbed_rise": perturbed - plain,
        }
