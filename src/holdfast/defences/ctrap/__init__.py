"""CTRAP (Yi et al., 2025): a step of harmful descent springs a trap, the model's collapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    Positive,
    Rows,
    Run,
    Step,
    passed,
)
from holdfast.api import seed as seed_of
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Encoder, Tokens
    from holdfast.nn.gradients import Value
    from holdfast.nn.vectors import ParamVector

    Shifted = Callable[[Mapping[str, Tensor]], ParamVector]


def ctrap_gradient(align: ParamVector, collapse: ParamVector, lam: float) -> ParamVector:
    """Give g = grad f(w) + lam * v; `collapse` is v and becomes the result.

    At first order v is grad L_col at the stepped weights (the inner step's Jacobian taken as the
    identity); at second order what `through_step` makes of it.
    """
    return collapse.scale_(lam).add_(align)


def through_step(
    collapse: ParamVector,
    harm: ParamVector,
    harm_at: Shifted,
    alpha: float,
    eps: float,
    *,
    normalise: bool = False,
) -> ParamVector:
    """Carry v = grad L_col(w') back to w through w' = w - alpha g, g = grad h(w): v - alpha H v.

    With `normalise` the step is alpha g / |g|, and the result v - alpha / |g| H (v - u (u . v)),
    u = g / |g|. The product H d is |d| [g(w + eps d / |d|) - g(w)] / eps. `collapse` is used up.

    Args:
        collapse: v, one tensor a parameter.
        harm: g at the weights.
        harm_at: direction of length 1 -> g at w + eps x that direction.
        alpha: length of the simulated step (a factor of g unless `normalise`).
        eps: length of the shift.
    """
    size = harm.norm()
    along = harm.dot(collapse) / size if normalise else 0.0
    length = max(0.0, collapse.norm() ** 2 - along**2) ** 0.5
    if length == 0.0:
        return collapse
    after = harm_at(nn.Mix((1 / length, collapse), (-along / (size * length), harm)))
    factor = -(alpha / size if normalise else alpha) * length / eps
    return collapse.add_(after, factor).add_(harm, -factor)


class CTRAP(GradientDefence):
    """Minimise CE(refusal) + lam * L_col(w - alpha * grad CE(harmful)), first order."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "harmful", "benign")
    paper: ClassVar[str] = "arXiv 2505.16559"
    equation: ClassVar[str] = (
        "CE(D_ref) + lam * L_col(w - alpha * grad CE(D_harm); D_ben); "
        "L_col = -mean_t log p(e | x, y_<t)"
    )
    cost: ClassVar[str] = "3F + 3B, two gradient copies; second order 4F + 4B, three"
    fidelity: ClassVar[str] = (
        "formula, numbers and cost second-hand, no official code; both readings of the order "
        "are offered; published numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    neutral: ClassVar[dict[str, Any]] = {"lam": 0.0}
    plain: ClassVar[dict[str, float]] = {"refusal": 1.0}
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"order": "second"}}
    signal: ClassVar[str] = "harm_loss_drop"
    moves: ClassVar[Literal["up", "down"]] = "down"

    lam: NotNegative = 0.1
    """Weight of the collapse loss; source: a third party's port, unverified."""
    alpha: Positive = 0.1
    """Factor of the harmful gradient in the simulated step; source: the same port, unverified."""
    word: Annotated[str, Field(min_length=1)] = "error"
    """What a collapsed model repeats: the first token of this word as an answer begins. The paper
    leaves the choice free; its examples repeat a word like this one."""
    normalise: bool = False
    """Whether the harmful gradient is first divided by its norm, as Booster does; the paper's
    formula does not."""
    order: Literal["first", "second"] = "first"
    """`first` takes the inner step's Jacobian as the identity, which the cost that the paper
    reports implies (three gradients a step); `second` is the formula's own gradient, and alone
    ties the collapse to the step."""
    eps: Positive = 1e-3
    """Second order only: L2 length of the shift that stands for a second derivative; ours, as
    SEAM's."""
    benign_weight: NotNegative = 0.0
    """Weight of the benign cross-entropy at the weights as they are, 0 in the original; ours:
    nothing else keeps the collapse from reaching benign prompts. Costs 1F + 1B where it is not 0.
    """
    n: Count | None = None
    """Distinct prompts, each with a refusal and a harmful answer; None takes all."""
    n_benign: Count | None = None
    """Distinct benign rows, the paper's general dialogue; None takes all."""
    loop: Loop = Loop(steps=10_000, batch=10, lr=5e-4, weight_decay=0.1, decay_norms=False)
    """Source: Booster's released script, which shares authors with this paper; unverified here."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw prompts that have both answers, as Booster does, and benign rows."""
        draw = seed_of(seed, "draw")
        pairs = pool.paired(Role.REFUSAL, Role.HARMFUL, Side.DEFENDER, self.n, draw)
        benign = pool.draw(Role.BENIGN, Side.DEFENDER, self.n_benign, draw, what=self.name())
        return {
            Role.REFUSAL: [refusal for refusal, _ in pairs],
            Role.HARMFUL: [harmful for _, harmful in pairs],
            Role.BENIGN: benign,
        }

    def setup(self, run: Run) -> int:
        """Give the id of the token that a collapsed model repeats."""
        token = self.token(run.encoder, run.where)
        run.log(collapse_token=token, collapse_text=run.encoder.tokenizer.decode([token]))
        return token

    def token(self, encoder: Encoder, where: str) -> int:
        """Give the id of the first token of an answer that says `word`.

        Raises:
            ConfigError: the tokenizer does not know it, or answers end with it.
        """
        row = encoder.encode("x", self.word)
        token = row.ids[row.start]
        if token in (*encoder.ends, encoder.pad_id, encoder.tokenizer.unk_token_id):
            raise ConfigError(
                f"{where}.word", f"'{self.word}' is no word of this tokenizer", "choose another"
            )
        return token

    def gradient(self, model: PreTrainedModel, step: Step, state: int) -> tuple[ParamVector, Loss]:
        """Give the gradient of the whole step; exact however the step is split.

        Raises:
            TrainingError: the harmful gradient is 0, or rounding eats the step.
        """
        terms: Loss = {}
        found: ParamVector | None = None
        if self.lam > 0:
            found = self._trapped(model, step, state, terms)
        align, seen = nn.mean_gradient(model, step[Role.REFUSAL], "align")
        terms |= seen
        found = align if found is None else ctrap_gradient(align, found, self.lam)
        if self.benign_weight > 0:
            del align
            benign, seen = nn.mean_gradient(
                model, step[Role.BENIGN], "benign", weight=self.benign_weight
            )
            terms |= seen
            found.add_(benign)
        return found, terms

    def _trapped(self, model: PreTrainedModel, step: Step, token: int, terms: Loss) -> ParamVector:
        """Give the collapse loss's gradient after the simulated step; note what was measured."""
        harm, seen = nn.mean_gradient(model, step[Role.HARMFUL], "harm")
        terms |= seen
        terms["harm"].weight = 0.0  # only told: it is no summand
        with nn.shifted(model, harm, -self._length(harm.norm()), where=self.name()):
            if self.order == "first":
                harm.clear()  # its work is done: the weights hold it
            found, seen = nn.mean_gradient(
                model, step[Role.BENIGN], "collapse", value=self._collapse(token)
            )
        terms |= seen
        terms["collapse"].weight = self.lam

        def harm_at(direction: Mapping[str, Tensor]) -> ParamVector:
            with nn.shifted(model, direction, self.eps, where=self.name()):
                return nn.mean_gradient(model, step[Role.HARMFUL], "harm")[0]

        if self.order == "second":
            found = through_step(
                found, harm, harm_at, self.alpha, self.eps, normalise=self.normalise
            )
        return found

    def _length(self, norm: float) -> float:
        """Give the factor of the harmful gradient in the simulated step."""
        if norm == 0.0:
            raise TrainingError(
                self.name(), "the harmful gradient is 0", "check the harmful rows and the precision"
            )
        return self.alpha / norm if self.normalise else self.alpha

    def _collapse(self, token: int) -> Value:
        from holdfast.defences.ctrap.collapse import constant_nll

        return lambda model, tokens: constant_nll(model, tokens, token)

    def vectors(self) -> int:
        """Count the harmful gradient, and at second order the one at the shifted weights."""
        return 2 if self.order == "second" else 1

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count refusals; harmful rows (twice at second order) and the collapse; benign rows."""
        found = passed(rows["refusal"])
        if self.lam > 0:
            harmful = passed(rows["harmful"]) * (2 if self.order == "second" else 1)
            found += harmful + passed(rows["benign"])
        return found + passed(rows["benign"]) if self.benign_weight > 0 else found

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Measure what one simulated harmful step does to the harmful and to the collapse loss.

        CTRAP lowers `harm_loss_drop`: a step that springs the trap teaches nothing. It raises
        `collapse_drop`, the trap itself; `collapse_after` alone is low in any broken model. Over
        all parameters and all rows of the defender's selection side; empty where it lacks harmful
        or benign rows, or where the harmful gradient is 0.
        """
        side, draw = Side.DEFENDER_SELECTION, seed_of(run.seed, "draw")
        if not all(run.pool.has(role, side) for role in (Role.HARMFUL, Role.BENIGN)):
            return {}
        cut, parts = self.loop.micro_batch or self.loop.batch, {}
        for role in (Role.HARMFUL, Role.BENIGN):
            rows = run.pool.draw(role, side, None, draw)
            parts[role] = [run.encoder.batch(rows[i : i + cut]) for i in range(0, len(rows), cut)]
        collapse = self._collapse(self.token(run.encoder, run.where))
        with nn.all_trainable(run.model):
            harm, _ = nn.mean_gradient(run.model, parts[Role.HARMFUL], "harm")
        if harm.norm() == 0.0:
            return {}

        def means() -> tuple[float, float]:
            return (
                _mean(nn.nll, run.model, parts[Role.HARMFUL]),
                _mean(collapse, run.model, parts[Role.BENIGN]),
            )

        before, still = means()
        with nn.shifted(run.model, harm, -self._length(harm.norm()), where=self.name()):
            after, fallen = means()
        return {
            "harm_loss": before,
            "harm_loss_drop": before - after,
            "collapse_before": still,
            "collapse_after": fallen,
            "collapse_drop": still - fallen,
        }


def _mean(value: Value, model: PreTrainedModel, parts: list[Tokens]) -> float:
    """Give a mean over the labelled tokens of all parts."""
    with torch.no_grad():
        found = [value(model, part) for part in parts]
    return sum(float(total) for total, _ in found) / sum(count for _, count in found)
