"""Static KL: every row of a customer on the same leash to the frozen start, whatever it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast import nn
from holdfast.api import TRAINED, Batch, Blocks, Effort, Loss, Rows, Run, Share, TuneDefence, passed
from holdfast.api.lazy import torch
from holdfast.data.example import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers.modeling_utils import PreTrainedModel


@dataclass
class Start:
    """The frozen reference; under LoRA the model itself, its adapter off."""

    teacher: PreTrainedModel


class StaticKL(TuneDefence):
    """Minimise (1 - strength) CE(task) + strength KL(reference || model) on response tokens."""

    equation: ClassVar[str] = "sum_i [(1 - beta) CE_i + beta KL(p_0 || p)_i] / N, N response tokens"
    paper: ClassVar[str] = "the constant schedule of arXiv 2602.17546; its missing control"
    cost: ClassVar[str] = "2F + 1B; no copy under LoRA"
    fidelity: ClassVar[str] = (
        "adaptive_kl with a constant schedule; no public value of beta to copy"
    )
    status: ClassVar[str] = "checked against its equations"
    neutral: ClassVar[dict[str, Any]] = {"strength": 0.0}
    plain: ClassVar[dict[str, float]] = {"task": 1.0}

    strength: Share = 0.9
    """beta, the weight of the KL; the cross-entropy has 1 - beta. Source: the highest value of the
    released code of Goel et al. 2026; above 0.5 greedy answers stay by the mixture law where the
    reference puts nearly all its mass on one opening token."""

    def copies(self) -> int:
        """Count the frozen start; under LoRA the model with its adapter off is it."""
        return 0 if self.loop.lora is not None else 1

    def setup(self, run: Run) -> Start:
        """Keep the reference."""
        other = run.models.get("reference")
        made = nn.reference_of(run.model, self.loop.lora is not None, other, self.name())
        return Start(made)

    def counts(self, batch: Batch, state: Start) -> dict[str, float]:
        """Count the response tokens, which divide both terms."""
        tokens = float((batch[Role.TASK].labels != -100).sum())
        return {"task": tokens, "kl": tokens} if self.strength else {"task": tokens}

    def loss(self, model: PreTrainedModel, batch: Batch, state: Start) -> Loss:
        """Give the cross-entropy's term and the KL's."""
        tokens = batch[Role.TASK]
        if not self.strength:
            return nn.task_terms(model, tokens)
        beta = torch.full((len(tokens),), self.strength)
        old, _ = nn.reference_pass(state.teacher, tokens)
        return nn.leash_terms(nn.row_sums(model, tokens, state.teacher, old, 1 - beta, beta), beta)

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count the reference's pass and the model's; no reference where nothing is held."""
        return passed(rows["task"], bool(self.strength) + TRAINED)
