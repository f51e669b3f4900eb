"""T-Vaccine (Liu et al., arXiv 2410.09760): Vaccine on a few layers at a time, the rest frozen.

Layers are drawn by how strongly a harmful row pulls at them. Symbols: L layers, e_l the output of
layer l, S layers drawn, K optimiser steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

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
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.data.tokens import collate
from holdfast.errors import ConfigError, ModelError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Tokens
    from holdfast.nn.perturb import Shifts
    from holdfast.nn.vectors import ParamVector

HELD_OUT = 96
"""Most held-out refusals the diagnostic looks at."""

_LOOP: dict[str, Any] = {
    "steps": 4000,
    "batch": 10,
    "lr": 1e-3,
    "schedule": "cosine",
    "warmup": 400,
    "weight_decay": 0.1,
    "decay_norms": False,
}


def chances(norms: Tensor) -> Tensor:
    """Give p_l = |g_l| / sum of |g_l|, [L] -> [L] in fp64, from each layer's gradient norm.

    A layer without any gradient keeps a chance of 1e-12, so that S layers can always be drawn.
    """
    p = norms.double() / norms.double().sum()  # Liu et al. 2024, the layers' importance
    p = p.clamp(min=1e-12)
    return p / p.sum()


def drawn(p: Tensor, count: int, seed: int) -> tuple[int, ...]:
    """Give `count` distinct layers, ascending, drawn one after another by chances `p [L]`."""
    generator = torch.Generator().manual_seed(seed)
    picked = torch.multinomial(p.cpu(), count, replacement=False, generator=generator)
    return tuple(sorted(picked.tolist()))


@dataclass
class Layers:
    """The layers' chances and the ones drawn; None until the first step that measures.

    `held` is what the run trains when nothing is frozen.
    """

    seed: int
    log: Callable[..., None] = lambda **_: None
    step: int = 0
    due: bool = False
    p: Tensor | None = None
    chosen: tuple[int, ...] | None = None
    held: dict[str, Tensor] = field(default_factory=dict)


class TVaccine(GradientDefence):
    """Minimise CE(refusal) under the worst perturbation of S drawn layers; others are frozen."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "harmful")
    separable: ClassVar[bool] = False
    paper: ClassVar[str] = "arXiv 2410.09760"
    equation: ClassVar[str] = (
        "min_{w_S} max_{|eps_S| <= rho} CE(D_ref; e_l + eps_l for l in S), "
        "S ~ p_l = |g_l| / (|g_1| + .. + |g_L|) of a harmful row"
    )
    cost: ClassVar[str] = "2F + 1B of S layers' weights + 2B of inputs alone; the perturbations"
    fidelity: ClassVar[str] = (
        "paper and released code read; freezes whole layers as the paper, the code's way is "
        "a preset; published numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    neutral: ClassVar[dict[str, Any]] = {"rho": 0.0, "layers": 1.0}
    plain: ClassVar[dict[str, float]] = {"refusal": 1.0}
    signal: ClassVar[str] = "perturbed_loss"
    moves: ClassVar[Literal["up", "down"]] = "down"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "released": {
            "layers": 8,
            "freeze": "attention",
            "n": 2000,
            "n_harmful": 200,
            "loop": _LOOP | {"lora": {"rank": 8, "alpha": 4.0}},
        },
    }

    rho: NotNegative = 3.0
    """L2 length of the perturbation over the drawn layers, all tokens and rows of a micro-batch
    together; source: the released script."""
    layers: Count | Annotated[float, Field(gt=0, le=1)] = 0.25
    """Layers perturbed and trained at a time: a whole number of them, or a share of depth (1.0 is
    all, 1 is one; a share is rounded, one at least); source: the paper's 8 of Llama-2-7B's 32."""
    measure_every: Count = 200
    """Optimiser steps between two measurements of the layers' chances; source: the released
    script."""
    draw_every: Count = 20
    """Optimiser steps between two draws of layers; source: the released script."""
    measure_rows: Count = 1
    """Harmful rows a measurement reads, at most a step's; source: the released script's one."""
    freeze: Literal["block", "attention"] = "block"
    """What of a layer that is not drawn stands still: `block`, all of it, as the paper says;
    `attention`, its attention alone, as the released code does. Embeddings, last norm and head
    belong to no layer: they train where the loop trains them."""
    n: Count | None = None
    """Distinct refusal rows; None takes all of the defender's (the released script: 2,000)."""
    n_harmful: Count | None = None
    """Distinct harmful rows that measurements draw from; None takes all of the defender's (the
    released script: 200)."""
    loop: Loop = Loop(**_LOOP)
    """Source: the released script (20 epochs of 2,000, batch 10, 1e-3 cosine, warm-up 0.1, decay
    0.1, which its trainer keeps from norms). Its adapter is in the preset `released`; its dropout
    of 0.1 is left out."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's refusals, and the harmful rows that only measure.

        Raises:
            ConfigError: compiled layers; a checkpoint at a step that measures nothing, from which
                a run could not continue with the layers it had.
        """
        if self.loop.compile_layers:
            raise ConfigError(
                f"{self.name()}.loop.compile_layers",
                "a compiled layer does not see what is added inside it",
                "turn it off",
            )
        every = self.loop.checkpoint_every
        if every < self.loop.steps and every % self.measure_every:
            raise ConfigError(
                f"{self.name()}.loop.checkpoint_every",
                f"{every} is no multiple of measure_every ({self.measure_every}): a run could not "
                "continue with its layers",
                "make it one",
            )
        draw, what = seed_of(seed, "draw"), self.name()
        return {
            Role.REFUSAL: pool.draw(Role.REFUSAL, Side.DEFENDER, self.n, draw, what=what),
            Role.HARMFUL: pool.draw(Role.HARMFUL, Side.DEFENDER, self.n_harmful, draw, what=what),
        }

    def count_of(self, depth: int) -> int:
        """Give S for a model of `depth` layers.

        Raises:
            ModelError: more layers than there are.
        """
        if isinstance(self.layers, float):
            return max(1, round(self.layers * depth))
        if self.layers > depth:
            raise ModelError(
                f"{self.name()}.layers",
                f"{self.layers} asked for, the model has {depth}",
                f"ask for at most {depth}, or for a share of depth",
            )
        return self.layers

    def setup(self, run: Run) -> Layers:
        """Check the number of layers; nothing is drawn before the first step."""
        self.count_of(len(nn.blocks(run.model)))
        return Layers(run.seed, run.log)

    def on_step(self, step: int, state: Layers) -> None:
        """Say whether this step measures."""
        state.step = step
        state.due = step % self.measure_every == 0

    def gradient(
        self, model: PreTrainedModel, step: Step, state: Layers
    ) -> tuple[ParamVector, Loss]:
        """Give the gradient at the perturbed outputs of the drawn layers, 0 for what is frozen.

        What is frozen also asks for no gradient from here to the next draw. Before the first step
        of a loop (`on_step`) nothing is drawn and every layer is taken.

        Raises:
            TrainingError: the perturbation is lost to rounding; no layer has a harmful gradient.
        """
        if not state.held:
            state.held = nn.trainable(model)
        if state.due:
            state.p = self._measured(model, step[Role.HARMFUL])
            state.due = False
            state.chosen = None
        if state.p is not None and (state.chosen is None or state.step % self.draw_every == 0):
            at = state.step - state.step % self.draw_every
            count = self.count_of(len(state.p))
            state.chosen = drawn(state.p, count, seed_of(state.seed, "sampling", "layers", at))
            self._freeze(model, state)
            state.log(step=state.step + 1, layers=state.chosen, chances=state.p.tolist())
        chosen = state.chosen
        found, terms = nn.perturbed_grad(
            model,
            {name: p for name, p in state.held.items() if p.requires_grad},
            step[Role.REFUSAL],
            lambda tokens: self._perturb(model, tokens, chosen),
            where=self.name(),
        )
        still = {name: p for name, p in state.held.items() if name not in found}
        zeros = type(found).zeros(still)
        return type(found)({n: zeros[n] if n in still else found[n] for n in state.held}), terms

    def _measured(self, model: PreTrainedModel, parts: Sequence[Tokens]) -> Tensor:
        """Give the layers' chances, [L], from a few harmful rows of this step."""
        rows = [row for part in parts for row in part.rows][: self.measure_rows]
        tokens = collate(rows, 0)
        found, _, _ = nn.output_gradients(model, tokens)
        norms = torch.stack([nn.total_norm([g]) for g in found.values()]).cpu()
        size = float(norms.sum())
        if not 0.0 < size < float("inf"):
            raise TrainingError(
                self.name(),
                f"the harmful gradient at the layers' outputs is {size:g}",
                "check the harmful rows and the precision",
            )
        return chances(norms)

    def _freeze(self, model: PreTrainedModel, state: Layers) -> None:
        """Let only the drawn layers, and what belongs to no layer, ask for gradients."""
        whole = self.freeze == "block"
        modules = nn.blocks(model) if whole else nn.attentions(model)
        chosen = state.chosen or ()
        frozen = {id(p) for i, m in enumerate(modules) if i not in chosen for p in m.parameters()}
        for p in state.held.values():
            p.requires_grad_(id(p) not in frozen)

    def _perturb(
        self, model: PreTrainedModel, tokens: Tokens, layers: Sequence[int] | None
    ) -> tuple[Shifts, Loss]:
        """Give the worst perturbation of some layers, and the loss without it."""
        if self.rho == 0.0:
            return {}, {}
        found, value, count = nn.output_gradients(model, tokens, layers)
        return nn.worst_case(found, self.rho), {"plain": Term(value, count, 0.0, "tokens")}

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count the perturbation's pass, back to the first drawn layer, the trained one, and the
        measurements' share of a step. The first of S layers drawn evenly is (L - S) / (S + 1).
        """
        found = passed(rows["refusal"])
        drawn = self.count_of(of.depth)
        if self.rho > 0:
            first = (of.depth - drawn) / (drawn + 1)
            found += to_outputs(rows["refusal"], of, first, of.attention)
        number = min(self.measure_rows, rows["harmful"].number)
        measured = replace(rows["harmful"], number=number)
        often = math.ceil(self.loop.steps / self.measure_every) / self.loop.steps
        return found + to_outputs(measured, of, 0, of.attention) * often

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Measure the held-out refusals' loss as it is and under the worst perturbation of all
        layers, whichever were drawn last.

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
            lambda tokens: self._perturb(run.model, tokens, None),
        )
        return {
            "plain_loss": plain,
            "perturbed_loss": perturbed,
            "perturbed_rise": perturbed - plain,
        }
