"""The optional `tuning` of a study: what an honest customer can still teach a released model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from holdfast import nn
from holdfast.api import Batch, EvalPurpose, FineTuning, Loss, Term
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role, Side
from holdfast.errors import ConfigError
from holdfast.study.file import Tuning
from holdfast.study.nodes import Prompts

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool


class HonestTuning(FineTuning):
    """Plain fine-tuning on honest rows: no attack, though it runs as one does.

    Its rows are of the attacker's side, where a defence never looked.
    """

    role: Literal["task", "benign"] = "task"
    """Role of its rows."""

    @classmethod
    def of(cls, said: Tuning) -> HonestTuning:
        """Make it of what a study says."""
        return cls(loop=said.loop, evaluate_at=said.budgets, distinct=said.distinct, role=said.role)

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the customer's rows."""
        role = Role(self.role)
        drawn = pool.draw(
            role,
            Side.ATTACKER,
            self.distinct,
            seed_of(seed, "draw"),
            where=lambda row: row.response is not None,
            what=self.name(),
        )
        return {role: drawn}

    def loss(self, model: PreTrainedModel, batch: Batch, state: object) -> Loss:
        """Give the cross-entropy over response tokens."""
        value, count = nn.nll(model, batch[Role(self.role)])
        return {self.role: Term(value, count, 1.0, "tokens")}


def taught_sets(prompts: Sequence[Prompts], where: str) -> set[int]:
    """Give the places of the evaluator's sets of purpose task: what shows that a task was learnt.

    Raises:
        ConfigError: there is none.
    """
    own = {i: one for i, one in enumerate(prompts) if one.side == Side.EVALUATOR}
    taught = {i for i, one in own.items() if one.set.purpose is EvalPurpose.TASK}
    if not taught:
        raise ConfigError(
            where,
            "no set of purpose 'task' is asked of the evaluator, so nothing shows what was learnt",
            "ask one in `evaluation`, such as the source gsm8k's",
        )
    return taught


def tuned_sets(prompts: Sequence[Prompts], headline: Prompts) -> frozenset[int]:
    """Give the places of the sets asked of a tuned model: those of purpose task, the headline's.

    Raises:
        ConfigError: there is none of purpose task.
    """
    taught = taught_sets(prompts, "study.tuning")
    return frozenset(taught | {i for i, one in enumerate(prompts) if one is headline})
