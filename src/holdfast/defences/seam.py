"""SEAM (Wang et al., ICLR 2026): make harmful descent a benign ascent, so that misuse destroys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from holdfast import nn
from holdfast.api import (
    TRAINED,
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
from holdfast.api.fields import LATER
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.data.tokens import IGNORE
from holdfast.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Tokens
    from holdfast.nn.vectors import ParamVector

    Shifted = Callable[[Mapping[str, Tensor]], ParamVector]


Lens = Literal["blocks", "all"]

PARALLEL = 1e-12
"""Least squared sine between two gradients: below it their difference is fp32's rounding."""


def depth_nll(model: PreTrainedModel, tokens: Tokens, lens: Lens = "blocks") -> tuple[Tensor, int]:
    """Give -log p(label) summed over labelled tokens and heads, in fp32, and N times the number it
    is divided by.

    A block's states pass the final norm and the head; the last block's are the model's own
    output, normed once: L terms over L. `all` adds the embeddings and that output normed again:
    L + 2 terms over L + 1. One chunked product serves all heads, so neither the logits nor a
    head's gradient for each are ever held.
    """
    batch = nn.batch_for(model, tokens)
    norm, depth, whole = nn.final_norm(model), len(nn.blocks(model)), lens == "all"
    kept: list[Tensor] = []

    def see(number: int, states: Tensor) -> None:
        emitting = nn.emitting_states(states, batch)[0]
        end = number == depth - 1
        if end:
            kept.append(emitting)
        if whole or not end:
            kept.append(norm(emitting))

    last = nn.forward(model, batch, see=see, embeddings=whole).last
    labels = nn.emitting_states(last, batch)[1]
    value = nn.head_nll(model, torch.cat(kept), labels.repeat(len(kept)))
    return value, len(labels) * (depth + whole)


def whole(tokens: Tokens) -> Tokens:
    """Label every token but each row's first, the prompt's included."""
    rows = tuple(replace(row, start=min(1, row.start)) for row in tokens.rows)
    labels = torch.where(tokens.mask.bool(), tokens.ids, IGNORE)
    for number, offset in enumerate(tokens.offsets):
        labels[number, offset] = IGNORE
    return replace(tokens, labels=labels, rows=rows)


def cosine(harm: ParamVector, benign: ParamVector) -> float:
    """Give c = g_a . g_b / (|g_a| |g_b|), summed in float64."""
    return harm.dot(benign) / (harm.norm() * benign.norm())


def cosine_gradient(
    harm: ParamVector,
    benign: ParamVector,
    harm_at: Shifted,
    benign_at: Shifted,
    eps: float,
    *,
    weight: float = 1.0,
    benign_weight: float = 0.0,
) -> ParamVector:
    """Give weight * grad cos(g_a, g_b) + benign_weight * g_b without any second derivative.

    grad cos = H_a (u_b - c u_a) / |g_a| + H_b (u_a - c u_b) / |g_b| with u = g / |g|, and each
    product H d is [g(w + eps d) - g(w)] / eps (Wang et al. 2026, the Hessian-free estimate).
    At most three vectors live at once; `harm` and `benign` are used up. Vectors that are parallel
    to rounding have no such direction, and the cosine's gradient is 0.

    Args:
        harm: g_a at the weights, one tensor a parameter.
        benign: g_b at the weights.
        harm_at: direction d -> g_a at w + eps d, in a buffer of its own.
        benign_at: the same for g_b.
        eps: length of the shift along d, which is no longer than 1.
    """
    size_a, size_b, slope = harm.norm(), benign.norm(), weight / eps
    c = harm.dot(benign) / (size_a * size_b)
    if 1 - c * c < PARALLEL:
        harm.clear()
        return benign.scale_(benign_weight)
    harm.scale_(1 / size_a)
    benign.scale_(1 / size_b)
    found = harm_at(nn.Mix((1.0, benign), (-c, harm))).scale_(slope / size_a)
    found.add_(harm, -slope).add_(benign, benign_weight * size_b - slope)
    harm.add_(benign, -c)  # from here on the direction of the second product
    benign.clear()
    return found.add_(benign_at(harm), slope / size_b)


def ascent(mean: float) -> tuple[float, float]:
    """Give -log(1 + m) and its derivative -1 / (1 + m): m is the harmful CE, layer-averaged."""
    return -math.log1p(mean), -1 / (1 + mean)


class SEAM(GradientDefence):
    """Minimise -log(1 + harmful CE over depth) + CE(refusal) + beta * cos(g_harmful, g_benign)."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "harmful", "benign")
    paper: ClassVar[str] = "arXiv 2505.12186"
    equation: ClassVar[str] = (
        "-ascent * log(1 + mean_l CE_l(D_harm)) + retain * CE(D_ref) + couple * cos(g_a, g_b); "
        "g_a = grad CE(D_harm), g_b = grad CE(D_ben)"
    )
    cost: ClassVar[str] = "6F + 6B, one of them with a head a block; three gradient copies"
    fidelity: ClassVar[str] = (
        "formulas and defaults read in the released code, the paper's own text not compared; "
        "published numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    neutral: ClassVar[dict[str, Any]] = {"ascent_weight": 0.0, "couple_weight": 0.0}
    plain: ClassVar[dict[str, float]] = {"refusal": 1.0}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"loop": {"steps": 500}},
        "released": {"benign_tokens": "all", "lens": "all"},
    }
    signal: ClassVar[str] = "gradient_cosine"
    moves: ClassVar[Literal["up", "down"]] = "down"

    ascent_weight: NotNegative = 1.0
    """Weight of -log(1 + harmful cross-entropy averaged over blocks); source: the released code,
    where this term has no weight of its own."""
    retain_weight: NotNegative = 1.0
    """Weight of the refusals' cross-entropy, the paper's alpha; source: the released script (1)."""
    couple_weight: NotNegative = 0.01
    """Weight of the cosine of the two gradients, the paper's beta; source: the released YAML; the
    command line's own default there is 0.001."""
    eps: Positive = 1e-3
    """L2 length of the shift that stands for a second derivative; source: the released script."""
    lens: Annotated[Lens, Field(json_schema_extra=LATER)] = "blocks"
    """What the ascent averages over: the output of each block through the final norm, once, the
    last being the model's own (L terms over L); ours, because it is what the average says. `all`:
    the embeddings too, and the final state twice, once normed again (L + 2 terms over L + 1);
    source: the released code."""
    benign_tokens: Literal["response", "all"] = "response"
    """Which benign tokens have a cross-entropy: responses (ours, as every other term), or prompts
    too (the released code)."""
    benign_weight: NotNegative = 0.0
    """Weight of the benign cross-entropy itself, 0 in the original; ours, so that methods can be
    compared with the same benign data. Its gradient is at hand: it costs no pass."""
    n: Count | None = None
    """Distinct prompts, each with a refusal and a harmful answer; None takes all."""
    n_benign: Count | None = None
    """Distinct benign rows; None takes all."""
    loop: Loop = Loop(steps=1000, batch=8, lr=2e-5, schedule="cosine", warmup=100, clip=None)
    """Source: the released script (one epoch of 8,000, batch 8, 2e-5, a tenth of it warm-up,
    cosine, no clipping)."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw prompts that have both answers, as the original's data has, and benign rows."""
        draw = seed_of(seed, "draw")
        pairs = pool.paired(Role.REFUSAL, Role.HARMFUL, Side.DEFENDER, self.n, draw)
        benign = pool.draw(Role.BENIGN, Side.DEFENDER, self.n_benign, draw, what=self.name())
        return {
            Role.REFUSAL: [refusal for refusal, _ in pairs],
            Role.HARMFUL: [harmful for _, harmful in pairs],
            Role.BENIGN: benign,
        }

    def gradient(
        self, model: PreTrainedModel, step: Step, state: object
    ) -> tuple[ParamVector, Loss]:
        """Give the gradient of the whole step; exact however the step is split.

        The coupled passes come first: they alone need three vectors at once.

        Raises:
            TrainingError: a gradient is 0, or rounding eats the shift.
        """
        terms: Loss = {}
        found: ParamVector | None = None
        benign = self._benign(step[Role.BENIGN])
        if self.couple_weight > 0:
            found = self._coupled(model, step[Role.HARMFUL], benign, terms)
        elif self.benign_weight > 0:
            found, seen = nn.mean_gradient(model, benign, "benign", weight=self.benign_weight)
            terms |= seen
        retain, seen = nn.mean_gradient(
            model, step[Role.REFUSAL], "refusal", weight=self.retain_weight
        )
        terms |= seen
        found = retain if found is None else found.add_(retain)
        if self.ascent_weight > 0:
            del retain
            deep, seen = nn.mean_gradient(
                model,
                step[Role.HARMFUL],
                "depth",
                value=partial(depth_nll, lens=self.lens),
                each=len(nn.blocks(model)) + (self.lens == "all"),
            )
            value, slope = ascent(float(seen["depth"].sum) / max(1.0, seen["depth"].count))
            found.add_(deep, self.ascent_weight * slope)
            terms |= seen
            terms["depth"].weight = 0.0  # only told: the term is its logarithm
            terms["ascent"] = Term(torch.tensor(value), 1.0, self.ascent_weight, once=True)
        return found, terms

    def _benign(self, parts: Sequence[Tokens]) -> Sequence[Tokens]:
        """Label what `benign_tokens` names."""
        return [whole(part) for part in parts] if self.benign_tokens == "all" else parts

    def _coupled(
        self,
        model: PreTrainedModel,
        harmful: Sequence[Tokens],
        benign: Sequence[Tokens],
        terms: Loss,
    ) -> ParamVector:
        """Give the cosine's gradient, with the benign term's; note what was measured."""
        first, seen = nn.mean_gradient(model, harmful, "harm")
        terms |= seen
        terms["harm"].weight = 0.0  # only told: it is no summand
        second, seen = nn.mean_gradient(model, benign, "benign")
        terms |= seen
        terms["benign"].weight = self.benign_weight
        for name, vector in (("harmful", first), ("benign", second)):
            if vector.norm() == 0.0:
                raise TrainingError(
                    self.name(), f"the {name} gradient is 0", "check the rows and the precision"
                )
        value = torch.tensor(cosine(first, second))
        terms["cosine"] = Term(value, 1.0, self.couple_weight, once=True)

        def at(parts: Sequence[Tokens]) -> Shifted:
            def gradient(direction: Mapping[str, Tensor]) -> ParamVector:
                with nn.shifted(model, direction, self.eps, where=self.name()):
                    return nn.mean_gradient(model, parts, "shifted")[0]

            return gradient

        return cosine_gradient(
            first,
            second,
            at(harmful),
            at(benign),
            self.eps,
            weight=self.couple_weight,
            benign_weight=self.benign_weight,
        )

    def vectors(self) -> int:
        """Count two of the three that the coupled gradients hold at once."""
        return 2 if self.couple_weight > 0 else 1

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count both coupled gradients at two places, refusals, and a head behind each block."""
        found, harmful, benign = passed(rows["refusal"]), rows["harmful"], passed(rows["benign"])
        if self.benign_tokens == "all":
            unasked = rows["benign"].number  # each row's first token
            benign = Effort(benign.body, TRAINED * (rows["benign"].tokens - unasked))
        if self.couple_weight > 0:
            found += (passed(harmful) + benign) * 2
        elif self.benign_weight > 0:
            found += benign
        if self.ascent_weight > 0:
            heads = of.depth + (2 if self.lens == "all" else 0)
            found += Effort(TRAINED * harmful.tokens, TRAINED * harmful.said * heads)
        return found

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Measure the cosine of the harmful and the benign gradient; SEAM lowers it.

        Over all parameters and all rows of the defender's selection side; empty where it lacks
        harmful or benign rows, or where either gradient is 0.
        """
        side, draw = Side.DEFENDER_SELECTION, seed_of(run.seed, "draw")
        if not all(run.pool.has(role, side) for role in (Role.HARMFUL, Role.BENIGN)):
            return {}
        found: dict[str, Any] = {}
        with nn.all_trainable(run.model):
            for role in (Role.HARMFUL, Role.BENIGN):
                rows = run.pool.draw(role, side, None, draw)
                cut = self.loop.micro_batch or self.loop.batch
                parts = [run.encoder.batch(rows[i : i + cut]) for i in range(0, len(rows), cut)]
                parts = self._benign(parts) if role is Role.BENIGN else parts
                found[role.value] = nn.mean_gradient(run.model, parts, "loss")
        (harm, _), (benign, _) = found["harmful"], found["benign"]
        sizes = {f"{name}_gradient": vector.norm() for name, (vector, _) in found.items()}
        if not all(sizes.values()):
            return {}
        losses = {
            f"{name}_loss": float(terms["loss"].sum) / terms["loss"].count
            for name, (_, terms) in found.items()
        }
        return {"gradient_cosine": cosine(harm, benign)} | sizes | losses
