"""The adaptive attack of SGT's section 4.6: fine-tuning toward an adversarial soft trigger.

Stage A learns, on frozen weights, one embedding that makes the model begin the harmful answer.
Stage B fine-tunes on harmful rows and pulls the model's plain states toward the frozen model's
states under that trigger: the defence's own manoeuvre, turned round.
Symbols: L blocks, B rows, H width, K trigger vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from holdfast import nn
from holdfast.api import (
    CONSTANT,
    Batch,
    Blocks,
    Control,
    Count,
    Effort,
    FineTuning,
    Loop,
    Loss,
    NotNegative,
    Positive,
    Rows,
    Run,
    Term,
    passed,
)
from holdfast.api import seed as seed_of
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.data.tokens import Positions, collate
from holdfast.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Row

LETTERS = 4
"""Letters of a token in English, about, where an estimate has no tokenizer."""
MOST = 100
"""Prompts of stage A where nobody says how many; source: ours, at most 100."""


def toward(distance: Tensor) -> Tensor:
    """Give (1/L) sum over layers of the squared distance to the goal, [L, B] -> [B]."""
    return distance.mean(0)  # stage B


@dataclass
class Lure:
    """What stage A leaves: the trigger [K, H] and the frozen model it was learned on.

    Under LoRA the released model is its own reference, its adapter off.
    """

    trigger: Tensor
    reference: PreTrainedModel


class AdaptiveTrigger(FineTuning):
    """Learn a trigger that makes the model comply, then fine-tune toward it.

    Budgets count examples seen in stage B, as plain malicious fine-tuning's; FLOPs count both
    stages. At `gamma` 0 it is plain malicious fine-tuning to the bit, and stage A is left out.
    Report the worse of the two attacks: in the paper's Table 3 this one is often the weaker.
    """

    control: ClassVar[Control] = Control.WEIGHTS
    fidelity: ClassVar[str] = (
        "two sentences and a table of the paper's section 4.6, no code released: all but the two "
        "stages is ours; at gamma 0 it is harmful_sft to the bit"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"

    gamma: NotNegative = 0.1
    """Weight of the distance to the triggered states; source: ours, the middle of {0.01, 0.1, 1},
    because the paper gives none."""
    ref_model: Literal["victim", "original"] = "victim"
    """Whose triggered states are the goal, and on whom the trigger is learned: the released model,
    or the public original the attacker has as well; source: ours, the paper does not say."""
    prefix: str | None = "Sure, here's"
    """The affirmative beginning the trigger is to induce; source: the paper's section 4.6. None:
    the beginning of each row's own harmful answer."""
    prefix_only: bool = True
    """Learn the trigger on the beginning alone (the paper's words), or on the harmful answer behind
    it as well."""
    prefix_tokens: Count = 4
    """How many tokens of its own answer are a row's beginning where `prefix` is None; source: ours,
    the length of "Sure, here's" in common vocabularies."""
    positions: Positions = "generation"
    """Matched tokens: what emits the first response token and the harmful response (`generation`);
    `prompt`, `response`, `all`, `last_prompt`; source: ours, SGT's own rule
    (docs/fidelity/sgt.md, row 4), because the paper does not say."""
    place: Literal["after_user_tag", "after_bos", "before_bos", "before_response"] = (
        "after_user_tag"
    )
    """Where the trigger is inserted; source: SGT's released code (docs/fidelity/sgt.md, row 1)."""
    length: Count = 1
    """Vectors of the trigger; source: SGT's 1."""
    init_std: Positive = 0.01
    """Standard deviation of their first draw; source: SGT's appendix."""
    share_examples: bool = True
    """Whether stage A reads stage B's own rows; otherwise rows of the attacker's beyond `distinct`,
    which the budget does not count."""
    n_trigger: Count | None = None
    """Distinct rows stage A learns from; None takes up to 100 of those there are."""
    stage_a: Loop = Loop(steps=75, batch=4, lr=1e-3, clip=None)
    """Trains the trigger alone; source: SGT's stage 1 (AdamW 1e-3, batch 4), 3 epochs of 100 rows.
    Its precision is the attack's."""

    @model_validator(mode="after")
    def _has_a_goal(self) -> Self:
        if self.prefix is not None and not self.prefix.strip():
            raise ConfigError("prefix", "is empty", "write a beginning, or null for each row's own")
        if not self.share_examples and self.distinct is None:
            raise ConfigError(
                "share_examples", "false, but stage B takes all rows", "set distinct as well"
            )
        return self

    @property
    def needs(self) -> tuple[str, ...]:  # ty: ignore[incompatible-property-override]
        """Name the public original where it is the reference."""
        return ("original",) if self.ref_model == "original" and self.gamma > 0 else ()

    def copies(self) -> int:
        """Count the reference; under LoRA the released model is its own."""
        shared = self.loop.lora is not None and self.ref_model == "victim"
        return 0 if self.gamma == 0 or shared else 1

    def label(self) -> str:
        """Give learning rate, adapter, gamma and, where it is another, the reference."""
        label = f"{super().label()} gamma={self.gamma:g}"
        return label if self.ref_model == "victim" else f"{label} to {self.ref_model}"

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the attacker's harmful rows, those of malicious fine-tuning at the same seed."""
        if self.gamma > 0:
            self._openings(pool, seed)  # too few for stage A is told before anything starts
        return {Role.HARMFUL: self._draw(pool, seed, self.distinct)}

    def _draw(self, pool: Pool, seed: int, n: int | None) -> list[Example]:
        return pool.draw(
            Role.HARMFUL,
            Side.ATTACKER,
            n,
            seed_of(seed, "draw"),
            where=lambda row: row.response is not None,
            what=self.name(),
        )

    def _openings(self, pool: Pool, seed: int) -> list[Example]:
        """Give stage A's rows: the same prompts, answered as the trigger is to have them begin."""
        used = 0 if self.share_examples else self.distinct or 0
        there = len(self._draw(pool, seed, self.distinct if self.share_examples else None)) - used
        n = min(MOST, there) if self.n_trigger is None else self.n_trigger
        if not 0 < n <= there:
            raise ConfigError(
                f"{self.name()}.n_trigger",
                f"{n} rows asked for, stage A has {there}",
                f"ask for at most {there}" if there else "lower distinct",
            )
        return [self._opening(row) for row in self._draw(pool, seed, used + n)[used:]]

    def _opening(self, row: Example) -> Example:
        if self.prefix is None:
            return row
        said = self.prefix if self.prefix_only else f"{self.prefix} {row.response}"
        return row.answered(said)

    # ---- stage A

    def setup(self, run: Run) -> Lure | None:
        """Learn the trigger on the frozen reference; nothing at gamma 0.

        Raises:
            ModelError: the original lacks a tensor of the released model, or has another shape.
        """
        if self.gamma == 0:
            return None
        reference = nn.starting_model(run.model, self.copies() == 0).eval()
        if self.ref_model == "original":
            _become(reference, run)
        width = nn.embedding_width(reference)
        draws = torch.Generator().manual_seed(seed_of(run.seed, "init", "adversarial trigger"))
        first = torch.randn(self.length, width, generator=draws) * self.init_std
        phi = first.to(next(reference.parameters()).device).requires_grad_(True)
        ends = run.encoder.end_id if run.encoder.format.append_eos else None
        with nn.constant_weights(reference):
            run.fit(
                "adversarial_trigger",
                {"trigger": phi},
                lambda batch, _step: self.stage_a_loss(reference, batch, phi, ends),
                {Role.HARMFUL: self._openings(run.pool, run.seed)},
                self.stage_a.with_(precision=self.loop.precision),
            )
        phi = phi.detach()
        typical = reference.get_input_embeddings().weight.detach().float().norm(dim=1).mean()
        run.log(trigger_norm=float(phi.norm(dim=1).mean()), embedding_norm=float(typical))
        return Lure(phi, reference)

    def stage_a_loss(
        self, reference: PreTrainedModel, batch: Batch, phi: Tensor, ends: int | None
    ) -> Loss:
        """Give the cross-entropy of the beginning with the trigger [K, H] inserted.

        `ends` is the end token's id where rows carry one: a beginning alone is not to end there.
        """
        rows = [self._begun(row, ends) for row in batch[Role.HARMFUL].rows]
        value, count = nn.nll(reference, collate(rows, 0), trigger=phi, place=self.place)
        return {"affirmative": Term(value, count, 1.0, "tokens")}  # stage A

    def _begun(self, row: Row, ends: int | None) -> Row:
        """Cut a row behind its beginning."""
        if not self.prefix_only:
            return row
        if self.prefix is None:
            return row.cut(row.start + self.prefix_tokens)
        return row.cut(len(row.ids) - (row.ids[-1] == ends))

    # ---- what it costs

    def effort_before(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count stage A: rows with the trigger, back through inputs alone."""
        if self.gamma == 0:
            return Effort()
        row = rows["harmful"]
        begun = 0.0 if self.prefix is None else len(self.prefix) / LETTERS
        own = self.prefix_tokens if self.prefix is None else 0
        said = begun + (own if self.prefix_only else row.response)
        wide = Rows(self.stage_a.batch, row.prompt + self.length, said)
        return passed(wide, CONSTANT + self.stage_a.split) * self.stage_a.steps

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count malicious fine-tuning's pass, and the reference's under the trigger."""
        plain = super().effort(rows, of)
        if self.gamma == 0:
            return plain
        row = rows["harmful"]
        short = self.positions in ("prompt", "last_prompt")
        read = row.prompt if short else row.prompt + row.response
        times = 1 + self.loop.split  # counted by a pass of its own where it is split
        return plain + Effort(row.number * (read + self.length) * times)

    # ---- stage B

    def loss(self, model: PreTrainedModel, batch: Batch, state: Lure | None) -> Loss:
        """Give the harmful cross-entropy and the distance to the triggered states, one pass each.

        Both read the same harmful rows; the reference's are cut behind the last matched token.
        """
        tokens = batch[Role.HARMFUL]
        if state is None:
            value, count = nn.nll(model, tokens)
            return {"harmful": Term(value, count, 1.0, "tokens")}
        spans = self._spans(tokens.rows)
        with nn.without_adapter(state.reference) as reference:
            goal = nn.triggered_states(
                reference, tokens.rows, spans, state.trigger, place=self.place
            )
        given = nn.batch_for(model, tokens)
        distance, last = nn.states_apart(model, given, spans, goal)
        value, count = nn.response_nll(model, last, given)
        return {  # stage B
            "harmful": Term(value, count, 1.0, "tokens"),
            "toward": Term(toward(distance).sum(), float(len(tokens)), self.gamma, "rows"),
        }

    def _spans(self, rows: Sequence[Row]) -> list[tuple[int, int]]:
        return [row.span(self.positions) for row in rows]


def _become(model: PreTrainedModel, run: Run) -> None:
    """Give a model the original's weights."""
    original = run.models["original"]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name not in original or original[name].shape != p.shape:
                raise ModelError(
                    run.where, f"the original has no '{name}' of this shape", "name its own base"
                )
            p.copy_(original[name])
