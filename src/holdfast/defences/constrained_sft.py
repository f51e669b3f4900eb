"""Constrained fine-tuning (Qi et al., ICLR 2025): the first tokens of an answer are held dear.

The more likely a token has become beside the frozen start, the less it is trained; sharply so for
the first few of a response. Symbols: D_t = log p(y_t) - log p_0(y_t), b_t the constraint's
sharpness at the response's token t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast import nn
from holdfast.api import (
    TRAINED,
    Batch,
    Blocks,
    Count,
    Effort,
    Loss,
    NotNegative,
    Rows,
    Run,
    Term,
    TuneDefence,
    passed,
)
from holdfast.api.lazy import torch
from holdfast.data.example import Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.tokens import Tokens


def token_weights(log_new: Tensor, log_old: Tensor, sharpness: Tensor, floor: float) -> Tensor:
    """Give w_t = max(2 (1 - sigmoid(b_t D_t)), floor), a constant, [N]."""
    apart = log_new.detach() - log_old.detach()
    return (2 * (1 - torch.sigmoid(sharpness * apart))).clamp(min=floor)


@dataclass
class Start:
    """The frozen reference; under LoRA the model itself, its adapter off."""

    teacher: PreTrainedModel


class ConstrainedSFT(TuneDefence):
    """Minimise the mean of w_t CE_t, w_t falling as a token gains on the frozen start."""

    paper: ClassVar[str] = "arXiv 2406.05946"
    equation: ClassVar[str] = (
        "mean_t -(2 / b_t) log sigmoid(b_t (log p(y_t) - log p_0(y_t))): CE_t with the weight "
        "2 sigmoid(-b_t D_t)"
    )
    cost: ClassVar[str] = "2F + 1B; no copy under LoRA"
    fidelity: ClassVar[str] = (
        "equation and released weights; log p_0 taken in the step, not before; published numbers "
        "not reproduced"
    )
    status: ClassVar[str] = "checked against its equations"
    neutral: ClassVar[dict[str, Any]] = {"first": 0.0, "early": 0.0, "later": 0.0}
    plain: ClassVar[dict[str, float]] = {"task": 1.0}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "loop": {
                "steps": 50,
                "batch": 64,
                "lr": 2e-5,
                "schedule": "linear",
                "warmup": 10,
                "weight_decay": 0.0,
                "beta1": 0.5,
                "lora": None,
            }
        },
    }

    first: NotNegative = 0.5
    """b_1, of a response's first token; source: the released code (0.1 x 5)."""
    early: NotNegative = 2.0
    """b_t of the tokens behind it up to `early_tokens`; source: the released code (0.1 x 20)."""
    early_tokens: Count = 5
    """How many tokens are early, the first one counted; source: the released code."""
    later: NotNegative = 0.1
    """b_t of all later tokens; source: the released code."""
    floor: NotNegative = 1e-3
    """The least weight a token keeps; source: the released code."""

    def copies(self) -> int:
        """Count the frozen start; under LoRA the model with its adapter off is it."""
        return 0 if self.loop.lora is not None else 1

    def setup(self, run: Run) -> Start:
        """Keep the reference."""
        other = run.models.get("reference")
        made = nn.reference_of(run.model, self.loop.lora is not None, other, self.name())
        return Start(made)

    def counts(self, batch: Batch, state: Start) -> dict[str, float]:
        """Count the response tokens."""
        return {"task": float((batch[Role.TASK].labels != -100).sum())}

    def loss(self, model: PreTrainedModel, batch: Batch, state: Start) -> Loss:
        """Give the weighted cross-entropy over response tokens."""
        tokens = batch[Role.TASK]
        sharp = self.sharpness(tokens).to(next(model.parameters()).device)

        def weigh(log_new: Tensor, log_old: Tensor, part: slice) -> Tensor:
            return token_weights(log_new, log_old, sharp[part], self.floor)

        alpha = torch.ones(len(tokens))
        old, _ = nn.reference_pass(state.teacher, tokens)
        found = nn.row_sums(
            model, tokens, state.teacher, old, alpha, torch.zeros(len(tokens)), weigh=weigh
        )
        return {"task": Term(found.loss, float(found.tokens.sum()), unit="tokens")}

    def sharpness(self, tokens: Tokens) -> Tensor:
        """Give b_t of each response token, row by row, [N]."""
        sharp: list[float] = []
        for row in tokens.rows:
            number = len(row.ids) - row.start
            early = min(number, self.early_tokens)
            sharp += ([self.first] + [self.early] * (early - 1))[:number]
            sharp += [self.later] * (number - early)
        return torch.tensor(sharp)

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count the reference's pass and the model's."""
        return passed(rows["task"], 1 + TRAINED)
