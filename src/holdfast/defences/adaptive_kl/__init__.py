"""Adaptive KL (Goel, Maji and Mazumder, 2026): the riskier a row, the shorter its leash.

Every row of a customer is learnt with a weight that falls with its risk, and held to the frozen
start with one that rises. Symbols: s_i risk of row i, beta_i and alpha_i = 1 - beta_i the weights
of its KL and its cross-entropy, p_0 the frozen start, N response tokens of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast import nn
from holdfast.api import (
    TRAINED,
    Batch,
    Blocks,
    Effort,
    Loss,
    Risk,
    Rows,
    Run,
    Share,
    Term,
    TuneDefence,
    passed,
)
from holdfast.api.lazy import torch
from holdfast.data.example import Role
from holdfast.defences.adaptive_kl.fields import Schedule, Settled, settle
from holdfast.defences.adaptive_kl.smoothing import Smoother

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.example import Example
    from holdfast.data.tokens import Row, Tokens
    from holdfast.nn import Critic, RowSums

SPLIT = ("ce_risky", "kl_risky", "ce_clean", "kl_clean")
"""Terms that are logged and weigh nothing: both losses on risky rows and on the others."""


@dataclass
class Watch:
    """The frozen reference, who scores, and what of the customer's rows is known so far."""

    teacher: PreTrainedModel
    critic: Critic
    settled: Settled
    smoother: Smoother
    run: Run
    rows: frozenset[Row] = frozenset()
    """The customer's rows."""
    warned: bool = False

    def tell(self) -> None:
        """Log the histogram of risks and warn of a risky job, once every row has been scored."""
        if self.warned or not self.rows <= self.critic.seen.keys():
            return
        self.warned = True
        self.run.log(**self.critic.told(), weight_removed=self.removed())
        self.critic.warn()

    def removed(self) -> float:
        """Give the share of the cross-entropy's weight that is taken away, by response tokens."""
        rows = [row for row in self.rows if row in self.critic.seen]
        if not rows:
            return 0.0
        beta = self.settled.beta(torch.tensor([self.critic.seen[row] for row in rows]))
        sizes = torch.tensor([float(len(row.ids) - row.start) for row in rows])
        return float((beta * sizes).sum() / sizes.sum())


class AdaptiveKL(TuneDefence):
    """Minimise sum_i [alpha_i CE_i + beta_i KL_i] / N, beta_i rising with the risk of row i."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "benign", "harmful")
    paper: ClassVar[str] = "arXiv 2602.17546"
    equation: ClassVar[str] = (
        "sum_i [(1 - beta_i) CE_i + beta_i KL(p_0 || p)_i] / N, beta_i = schedule(s_i)"
    )
    cost: ClassVar[str] = "2F + 1B; no copy under LoRA; a judge's call a row"
    fidelity: ClassVar[str] = (
        "paper's and released forms as presets; normalisation and a row's own risk ours; published "
        "numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations"
    neutral: ClassVar[dict[str, Any]] = {"schedule": {"kind": "constant", "low": 0.0, "high": 0.0}}
    plain: ClassVar[dict[str, float]] = {"task": 1.0}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "schedule": {"kind": "affine"},
            "aggregation": "batch_mean",
            "loop": {"batch": 8},
        },
        "released": {
            "aggregation": "first_row",
            "normalise": "micro_batch",
            "risk": {"step": 0.5, "ceiling": 0.75},
            "loop": {"micro_batch": 1},
        },
    }

    risk: Risk = Risk()
    """Who says how risky a row is, and what counts where nobody can."""
    schedule: Schedule = Schedule()
    """How risk becomes the weight of the KL."""
    aggregation: Literal["per_sample", "batch_mean", "batch_max", "first_row"] = "per_sample"
    """Whose risk a row of a forward pass is held by: its own, the pass's mean or maximum, or that
    of its first row. Source: ours; the paper has the mean, in which 1 risky row of 8 vanishes, and
    the released probe the first row's."""
    smoothing: Share = 0.0
    """How much of the last step's mean risk stays where a row's own is lower; a higher one acts at
    once. Source: ours; off, as in the released code."""
    normalise: Literal["step", "micro_batch"] = "step"
    """What a KL is divided by: response tokens of the whole step, or those of its micro-batch, the
    micro-batches then added up, which multiplies the KL by their number. Source: ours; the latter
    is what the released code does."""

    def copies(self) -> int:
        """Count the frozen start; under LoRA the model with its adapter off is it."""
        return 0 if self.loop.lora is not None else 1

    def setup(self, run: Run) -> Watch:
        """Keep the reference, make the critic and settle the schedule.

        Raises:
            DataError: too few of the defender's rows for a probe, a calibration or `auto`.
            ModelError: a reference of another shape, or a probe of another model.
        """
        other = run.models.get("reference")
        teacher = nn.reference_of(run.model, self.loop.lora is not None, other, self.name())
        path = None if run.work is None else run.work / "smoothing.jsonl"
        if self.schedule.kind == "constant":  # nobody's word is needed
            critic = nn.Critic(self.risk, [], f"{self.name()}.risk")
            return Watch(teacher, critic, Settled(self.schedule), Smoother(0.0), run)
        # A probe reads the reference, which is another model's only where one is given.
        critic = nn.critic(self.risk, run if other is None else _on(run, teacher))
        settled = settle(self.schedule, critic, run if other is None else _on(run, teacher))
        return Watch(teacher, critic, settled, Smoother(self.smoothing, path), run)

    def admit(self, rows: Sequence[Example], run: Run, state: Watch) -> Sequence[Example]:
        """Score the rows, as far as no probe is to do it on the way; all of them are admitted."""
        coded = [run.encoder.row(row) for row in rows]
        state.rows = frozenset(coded)
        if state.critic.parts:
            state.critic.read(rows, run)
            if not state.critic.layers:
                state.critic.of(coded, {})
                state.tell()
        return rows

    def on_step(self, step: int, state: Watch) -> None:
        """Turn the smoother to this step."""
        state.smoother.begin(step)

    def counts(self, batch: Batch, state: Watch) -> dict[str, float]:
        """Count the response tokens; what is only logged needs no count before it is known."""
        tokens, rows = batch[Role.TASK], float(len(batch[Role.TASK]))
        said = float((tokens.labels != -100).sum())
        if state.settled.is_off:
            return {"task": said}
        kl = said if self.normalise == "step" else self._part(tokens)
        known = {"task": said, "kl": kl, "risk": rows, "beta": rows}
        return known | dict.fromkeys(SPLIT, 1.0)

    def loss(self, model: PreTrainedModel, batch: Batch, state: Watch) -> Loss:
        """Give both terms from one pass of the reference and one of the model."""
        tokens = batch[Role.TASK]
        if state.settled.is_off:
            return nn.task_terms(model, tokens)
        old, prompts = nn.reference_pass(state.teacher, tokens, state.critic.layers)
        risk = state.smoother.smooth(
            nn.aggregated(self._risk(tokens, prompts, state), self.aggregation)
        )
        state.tell()
        beta = state.settled.beta(risk)
        if self.normalise == "micro_batch":
            terms, found = self._released(model, tokens, state, old, beta)
        else:
            found = nn.row_sums(model, tokens, state.teacher, old, 1 - beta, beta)
            terms = nn.leash_terms(found, beta)
        return terms | _logged(found, risk, beta)

    def _risk(self, tokens: Tokens, prompts: Mapping[int, Tensor], state: Watch) -> Tensor:
        if not state.critic.parts:
            return torch.zeros(len(tokens))
        return state.critic.of(tokens.rows, prompts)

    def _released(
        self, model: PreTrainedModel, tokens: Tokens, state: Watch, old: Tensor, beta: Tensor
    ) -> tuple[Loss, RowSums]:
        """Give the terms of the released code: the KL a mean over each micro-batch, added up."""
        none = torch.zeros_like(beta)
        ce = nn.row_sums(model, tokens, state.teacher, old, 1 - beta, none)
        kl = nn.row_sums(model, tokens, state.teacher, old, none, beta)
        said = float(ce.tokens.sum())
        terms = {
            "task": Term(ce.loss, said, unit="tokens"),
            "kl": Term(kl.loss / max(said, 1.0), self._part(tokens), unit="rows"),
        }
        return terms, ce

    def _part(self, tokens: Tokens) -> float:
        """Give a micro-batch's share of a step, by which a sum over micro-batches is no mean."""
        if not len(tokens):
            return 0.0
        return (self.loop.micro_batch or self.loop.batch) / self.loop.batch

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count the reference's pass and the model's: two where each term has its own."""
        if Settled(self.schedule).is_off:
            return passed(rows["task"])
        if self.normalise == "step":
            return passed(rows["task"], 1 + TRAINED)
        return passed(rows["task"], 1 + 2 * TRAINED) + Effort(head=rows["task"].said)

    def diagnostic(self, run: Run, state: Watch | None) -> dict[str, float]:
        """Give the share of rows that are risky, of weight taken away, and the rows that failed."""
        if state is None or not state.critic.seen:
            return {}
        if not state.warned:  # a probe has not met every row: the run was that short
            run.log(**state.critic.told(), weight_removed=state.removed())
            state.critic.warn()
        seen = state.critic.seen.values()
        return {
            "risky": sum(s > 0.5 for s in seen) / len(seen),
            "weight_removed": state.removed(),
            "failed": float(sum(state.critic.failed.values())),
        }


def _on(run: Run, teacher: PreTrainedModel) -> Run:
    """Give the run with another model: a probe reads the reference."""
    return Run(
        teacher, run.encoder, run.pool, run.seed, run.models, run.log, run.where, work=run.work
    )


def _logged(found: RowSums, risk: Tensor, beta: Tensor) -> Loss:
    """Give what is logged of a pass and weighs nothing."""
    risky = (risk > 0.5).to(found.ce.device)
    terms = {
        "risk": Term(risk.sum(), float(len(risk)), 0.0),
        "beta": Term(beta.sum(), float(len(beta)), 0.0),
    }
    for mask, name in ((risky, "risky"), (~risky, "clean")):
        said = float(found.tokens[mask].sum())
        terms[f"ce_{name}"] = Term(found.ce[mask].sum(), said, 0.0, "tokens")
        terms[f"kl_{name}"] = Term(found.kl[mask].sum(), said, 0.0, "tokens")
    return terms
