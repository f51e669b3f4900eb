"""Random Vaccine, the control of Vaccine: the same place, the same length, a random direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast import nn
from holdfast.api import Count, GradientDefence, Loop, Loss, NotNegative, Run, Step
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role, Side
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Tokens
    from holdfast.nn.perturb import Shifts
    from holdfast.nn.vectors import ParamVector

HELD_OUT = 96
"""Most held-out refusals the diagnostic looks at."""

Scale = Literal["norm", "variance"]

_LOOP: dict[str, Any] = {
    "steps": 20_000,
    "batch": 5,
    "lr": 1e-3,
    "schedule": "cosine",
    "warmup": 2000,
    "weight_decay": 0.1,
    "decay_norms": False,
}


def scaled(noise: Shifts, rho: float, scale: Scale) -> dict[int, Tensor]:
    """Give standard normal noise brought to size; shapes are kept, the noise's memory is used.

    `norm`: rho z_l / |(z_1, ..., z_L)|_2, as long as Vaccine's; `variance`: sqrt(rho) z_l.
    """
    if scale == "variance":
        return {number: z.mul_(rho**0.5) for number, z in noise.items()}
    size = nn.total_norm(noise.values())
    return {number: z.mul_(rho / size) for number, z in noise.items()}


@dataclass
class Noise:
    """The seed and the step that the noise hangs on."""

    seed: int
    step: int = 0


class RandomVaccine(GradientDefence):
    """Minimise CE(refusal) with Gaussian noise added to every layer's output."""

    roles: ClassVar[tuple[str, ...]] = ("refusal",)
    separable: ClassVar[bool] = False
    paper: ClassVar[str] = "arXiv 2402.01109, the ablation's control"
    equation: ClassVar[str] = "min_w CE(D_ref; e_l + eps_l), eps_l = rho z_l / |z|, z ~ N(0, I)"
    cost: ClassVar[str] = "1F + 1B; the perturbations"
    fidelity: ClassVar[str] = (
        "a control; released code read, its noise the presets `paper` and `released`; here as "
        "long as Vaccine's perturbation (ours)"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    neutral: ClassVar[dict[str, Any]] = {"rho": 0.0}
    plain: ClassVar[dict[str, float]] = {"refusal": 1.0}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"scale": "variance"},
        "released": {
            "scale": "variance",
            "n": 2000,
            "loop": _LOOP | {"lora": {"rank": 8, "alpha": 4.0}},
        },
    }

    rho: NotNegative = 2.0
    """Size of the noise, read by `scale`; Vaccine's own default, so that the two differ in nothing
    but direction."""
    scale: Scale = "norm"
    """`norm`: rho is the L2 length over all layers, tokens and rows of a micro-batch together, as
    in Vaccine (ours: else size and direction differ at once); `variance`: rho is the variance of
    every entry, as the paper describes its control and its trainer draws it."""
    site: Literal["attention", "block"] = "attention"
    """What is perturbed: the attention module's output, as Vaccine's code does, or the block's."""
    n: Count | None = None
    """Distinct refusal rows; None takes all of the defender's (Vaccine's script: 2,000)."""
    loop: Loop = Loop(**_LOOP)
    """Source: its released script, as Vaccine's (50 epochs of 2,000, batch 5, 1e-3 cosine, warm-up
    0.1, decay 0.1, which its trainer keeps from norms). Its adapter is in the preset `released`;
    its dropout of 0.1 is left out."""

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

    def setup(self, run: Run) -> Noise:
        """Keep the seed that the noise hangs on."""
        return Noise(run.seed)

    def on_step(self, step: int, state: Noise) -> None:
        """Draw other noise at every step."""
        state.step = step

    def gradient(
        self, model: PreTrainedModel, step: Step, state: Noise
    ) -> tuple[ParamVector, Loss]:
        """Give the gradient at the noisy outputs; the norm is each micro-batch's own.

        Raises:
            TrainingError: the noise is lost to rounding.
        """
        return nn.perturbed_grad(
            model,
            nn.trainable(model),
            step[Role.REFUSAL],
            lambda tokens: (self._noise(model, tokens, state), {}),
            where=self.name(),
            site=self.site,
        )

    def _noise(self, model: PreTrainedModel, tokens: Tokens, state: Noise) -> Shifts:
        if self.rho == 0.0:
            return {}
        noise = nn.gaussian(model, tokens, state.seed, state.step)
        return scaled(noise, self.rho, self.scale)

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Measure the held-out refusals' loss as it is, under noise and, beside it, under the worst
        perturbation of that length. It decides nothing: this method is a control.

        Batches have the training's size. Empty where the pool has no refusals on the defender's
        selection side.
        """
        if not run.pool.has(Role.REFUSAL, Side.DEFENDER_SELECTION):
            return {}
        draw = seed_of(run.seed, "draw")
        rows = run.pool.draw(Role.REFUSAL, Side.DEFENDER_SELECTION, None, draw)[:HELD_OUT]
        size = self.loop.micro_batch or self.loop.batch
        parts = nn.equal_batches(run.encoder, rows, size)
        noise = Noise(run.seed)
        plain, noisy = nn.perturbed_loss(
            run.model,
            parts,
            lambda tokens: (self._noise(run.model, tokens, noise), {}),
            site=self.site,
        )
        _, worst = nn.perturbed_loss(
            run.model,
            parts,
            lambda tokens: (
                nn.worst_case(nn.output_gradients(run.model, tokens, site=self.site)[0], self.rho),
                {},
            ),
            site=self.site,
        )
        return {"plain_loss": plain, "noisy_loss": noisy, "perturbed_loss": worst}
