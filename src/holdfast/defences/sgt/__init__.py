"""SGT (Shin et al., ACL 2026): learn a trigger that makes the base refuse, then do without it.

Stage 1 learns embedding vectors that make the frozen base refuse. Stage 2 trains the model so
that its hidden states on the plain harmful prompt equal the base's on the triggered one, and
discards the vectors. Symbols: L blocks, B rows, T tokens, H width, N positions, V vocabulary.

A *fidelity row* is one of the numbered choices in docs/fidelity/sgt.md.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from holdfast import nn
from holdfast.api import (
    Batch,
    Blocks,
    Count,
    Effort,
    Enough,
    Loop,
    Loss,
    LossDefence,
    NotNegative,
    Rows,
    Run,
    Term,
)
from holdfast.api import seed as seed_of
from holdfast.api.fields import LATER, AsTuple, was
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.defences.sgt.fields import Align, Consistency, Ending, Reduce, Repel, Texts, Trigger
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Encoder, Row, Span, Tokens

_STAGE_1: dict[str, Any] = {"steps": 1250, "batch": 4, "lr": 1e-3, "clip": None}
_STAGE_2: dict[str, Any] = {
    "steps": 1875,
    "batch": 4,
    "lr": 1e-5,
    "schedule": "linear",
    "warmup": 0,
}
_ABSOLUTE: dict[str, Any] = {
    "alpha_align": 0.01,
    "alpha_repel": 0.01,
    "trigger": {"unit": "one", "length": 1},
    "cons": {"sigma": 0.01},
    "align": {"relative": False},
    "one_refusal": False,
    "ending": None,
    "stage1": _STAGE_1,
    "loop": _STAGE_2,
}
"""The paper's weights, rates and steps, which count in the units of one model's states."""


# ---- the paper's equations, and the unit of a distance


def consistency(clean: Tensor, noisy: Tensor, sides: Literal["noisy", "both"] = "noisy") -> Tensor:
    """Give KL(p_clean || p_noisy) at each position, [N, V], [N, V] -> [N], in nats, fp32.

    The clean side is a constant unless `sides` is both (fidelity row 20); 0 where both are equal.
    """
    p = (clean if sides == "both" else clean.detach()).float().log_softmax(-1)
    q = noisy.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)  # Eq. 1, L_cons


def alignment(distance: Tensor) -> Tensor:
    """Give (1/L) sum over layers of the squared distance, [L, B] -> [B]."""
    return distance.mean(0)  # Eq. 2


def guided(plain: Tensor, triggered: Tensor, guidance: float) -> Tensor:
    """Give h + g (h_phi - h), [..., H], [..., H] -> [..., H]: how far the trigger moves a state, g
    times. At g = 1 it is the paper's target h_phi; ours beyond.
    """
    if guidance == 1.0:
        return triggered
    return plain.lerp(triggered, guidance)  # Eq. 2's target


def shift_unit(plain: Tensor, target: Tensor, owner: Tensor, rows: int) -> Tensor:
    """Give the mean square of the shift from plain to target states over a row's matched tokens.

    A distance divided by it is 1 where nothing was learnt and 0 at the target, in every layer and
    model. A shift under 1 % of the target's length counts as that, or rounding would be learnt.

    Args:
        plain, target: [M, H] states of the matched tokens.
        owner: [M] the row of each.

    Returns:
        [rows], above 0.
    """
    moved = nn.mean_square(target - plain, owner, rows)
    return moved.clamp(min=1e-12).maximum(1e-4 * nn.mean_square(target, owner, rows))


def repulsion(
    distance: Tensor, eps: float, aggregate: Literal["log_of_mean", "mean_of_logs"]
) -> Tensor:
    """Give log(1 + 1 / (d_b + eps)), [L, B] -> [B]; finite at 0, falling in the distance.

    `log_of_mean` averages layers first, as the paper writes; `mean_of_logs` as its code does.
    """
    if aggregate == "log_of_mean":
        return (1.0 / (distance.mean(0) + eps)).log1p()  # Eq. 3, L_repel
    return (1.0 / (distance + eps)).log1p().mean(0)


# ---- the method


@dataclass
class SGTState:
    """The trigger [K, H], the frozen teacher (under LoRA the student itself, its adapter off),
    and what is kept with the artefact: tensors, and what is said of them.
    """

    trigger: Tensor
    teacher: PreTrainedModel
    encoder: Encoder
    keep: dict[str, Tensor] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)


class SGT(LossDefence):
    """Learn a trigger that makes the base refuse, then refuse without it."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "benign")
    paper: ClassVar[str] = "Shin et al., ACL 2026 (long 463)"
    equation: ClassVar[str] = "alpha_align * L_align + L_task + alpha_repel * L_repel (Eq. 4)"
    cost: ClassVar[str] = "stage 1: (1+K)F + inputs-only B; stage 2: 3F + 1B; 2F + 1B at absolute"
    fidelity: ClassVar[str] = (
        "paper and released code read; what they leave open is a field with its measured effect, "
        "but for four points told on its page; published numbers not reproduced at their scale"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the world and one small model"
    neutral: ClassVar[dict[str, Any]] = {"alpha_align": 0.0, "alpha_repel": 0.0}
    plain: ClassVar[dict[str, float]] = {"benign": 1.0}
    signal: ClassVar[str] = "anchor_error"  # what Eq. 2 brings down; refusing alone does not
    moves: ClassVar[Literal["up", "down"]] = "down"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "absolute": _ABSOLUTE,
        "paper": _ABSOLUTE
        | {
            "align": {"positions": "prompt", "over_hidden": "sum", "relative": False},
            "repel": {"positions": "prompt"},
            "task_reduce": "sum",
            "stage1_reduce": "sum",
            "cons": {"sigma": 0.01, "sides": "both"},
            "loop": _STAGE_2 | {"precision": "bf16_pure"},
        },
        "released": _ABSOLUTE
        | {
            "alpha_align": 1.0,
            "alpha_repel": 1.0,
            "align": {"positions": "response", "relative": False},
            "repel": {"positions": "response", "aggregate": "mean_of_logs"},
            "teacher_embeddings": "student",
            "refusal": "I can't answer.",
            "stage1": _STAGE_1 | {"weight_decay": 0.01},
            "loop": _STAGE_2
            | {"steps": 625, "lr": 5e-5, "batching": "mixed", "precision": "bf16_pure"},
        },
        "guided": {"align": {"guidance": 1.5}},
    }

    alpha_align: NotNegative = 1.0
    """Weight of Eq. 2, whose distance is 1 before training where `align.relative` is shift; ours
    (docs/hardening-a-model.md). The paper's is 0.01, of an undivided distance."""
    alpha_repel: NotNegative = 0.1
    """Weight of the repulsion in Eq. 3; ours. The paper's is 0.01."""
    task_reduce: Reduce = "mean"
    """Benign cross-entropy as a mean over response tokens (code) or a sum a row (paper)."""
    stage1_reduce: Annotated[Reduce, Field(json_schema_extra=LATER)] = "mean"
    """Stage 1's cross-entropy and KL as means over response tokens (code) or sums a row (paper)."""
    trigger: Trigger = Trigger()
    """The soft trigger."""
    cons: Consistency = Consistency()
    """Stage 1's consistency term."""
    align: Align = Align()
    """Stage 2's matching."""
    repel: Repel = Repel()
    """Stage 2's repulsion."""
    teacher_embeddings: Annotated[Literal["own", "student"], Field(json_schema_extra=LATER)] = "own"
    """Whose input embeddings the teacher reads: the frozen base's, or the student's current ones as
    in the released code (fidelity row 17; they differ where embeddings are trained)."""
    refusal: Annotated[str | Texts | None, AsTuple] = None
    """One refusal text for every harmful prompt, or several, each prompt keeping one of them by its
    hash; None takes the rows' (fidelity row 23)."""
    one_refusal: Annotated[bool, Field(json_schema_extra=was(False))] = True
    """Without `refusal`: teach every prompt the commonest of the rows' refusals; ours, for several
    were not learnt (docs/hardening-a-model.md). False takes each row's own."""
    n_refusal: Count | None = None
    """Distinct harmful prompts; None takes all of the defender's (fidelity row 27: 2,500)."""
    n_benign: Count | None = None
    """Distinct benign rows; None takes all of the defender's (fidelity row 27: 2,500)."""
    n_stage1: Annotated[Count | None, Field(json_schema_extra=LATER)] = None
    """Distinct harmful prompts the trigger learns from; None takes stage 2's (fidelity row 22).
    The two share rows: the smaller set lies inside the larger."""
    stage1: Loop = Loop(steps=300, batch=4, lr=0.3, clip=None)
    """Trains the trigger alone, at a rate in its unit, at most so many steps (see `ending`); ours.
    The paper's: 5,000 prompts, 1 epoch, batch 4, 1e-3."""
    ending: Annotated[Ending | None, Field(json_schema_extra=was(None))] = Ending()
    """When both stages end before their last step; None takes every step, as the paper does."""
    loop: Loop = Loop(steps=300, batch=4, lr=5e-5, warmup=10)
    """Stage 2, at most so many steps (see `ending`). The paper's: 1,875 of batch 8, rate 1e-5."""

    # ---- rows

    def writes_answers(self) -> tuple[str, ...]:
        """Give the role that it answers with `refusal`."""
        return () if self.refusal is None else ("refusal",)

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's refusals and benign rows."""
        if self.trigger.file is not None and not Path(self.trigger.file).is_file():
            raise ConfigError(
                f"{self.name()}.trigger.file", f"no such file {self.trigger.file}", "check the path"
            )
        draw = seed_of(seed, "draw")
        self.harmful(pool, seed, self.n_stage1)  # too few for stage 1 is an error before it starts
        benign = pool.draw(Role.BENIGN, Side.DEFENDER, self.n_benign, draw, what=self.name())
        return {Role.REFUSAL: self.harmful(pool, seed, self.n_refusal), Role.BENIGN: benign}

    def harmful(self, pool: Pool, seed: int, n: int | None) -> list[Example]:
        """Draw `n` of the defender's harmful prompts, or all, each with its refusal."""
        draw, side = seed_of(seed, "draw"), Side.DEFENDER
        return self.taught(pool.draw(Role.REFUSAL, side, n, draw, what=self.name()), pool)

    def taught(self, rows: list[Example], pool: Pool) -> list[Example]:
        """Give harmful prompts with the refusals that they are taught."""
        own = pool.commonest(Role.REFUSAL, Side.DEFENDER) if self.one_refusal else None
        if (said := own if self.refusal is None else self.refusal) is None:
            return rows
        texts = (said,) if isinstance(said, str) else said
        return [row.answered(texts[int(row.uid, 16) % len(texts)]) for row in rows]

    # ---- stage 1: learn the trigger

    def copies(self) -> int:
        """Count the teacher; under LoRA the model is its own."""
        return 0 if self.loop.lora is not None else 1

    def setup(self, run: Run) -> SGTState:
        """Learn the trigger on the frozen model, which stays as the teacher.

        Under LoRA no weight of it moves, so the model with its adapter off is the teacher; full
        fine-tuning needs a second copy.
        """
        from holdfast.defences.sgt import trigger

        teacher = nn.starting_model(run.model, self.loop.lora is not None).eval()
        made = trigger.given if self.trigger.file else trigger.learned
        with nn.constant_weights(teacher):
            phi = made(self, teacher, run)
        phi = phi.detach().to(next(teacher.parameters()).device)
        typical = teacher.get_input_embeddings().weight.detach().float().norm(dim=1).mean()
        run.log(trigger_norm=float(phi.norm(dim=1).mean()), embedding_norm=float(typical))
        about = trigger.trigger_about(teacher, run.encoder, self.trigger.position, phi)
        return SGTState(phi, teacher, run.encoder, {"trigger": phi.cpu()}, about)

    def stage1_loss(
        self,
        teacher: PreTrainedModel,
        batch: Batch,
        phi: Tensor,
        seed: int,
        step: int,
        size: float = 1.0,
    ) -> Loss:
        """Give Eq. 1: refusal cross-entropy with the trigger, and consistency under noise.

        The clean and noisy copies go through the frozen model in one pass. `phi` [K, H] is counted
        in `size`.
        """
        rows = batch[Role.REFUSAL].rows
        copies = self.cons.samples if self.cons.weight > 0 else 0
        noisy = self._disturbed(rows, copies, phi, seed, step)
        triggers = torch.cat([phi.expand(len(rows), *phi.shape), noisy]) * size
        wide = nn.batch_for(teacher, rows * (1 + copies))
        states = nn.forward(teacher, wide, trigger=triggers, place=self.trigger.position)
        logits, labels = nn.generation_logits(teacher, states.last, wide)
        n = len(labels) // (1 + copies)
        clean = logits[:n].float()
        task = torch.nn.functional.cross_entropy(clean, labels[:n], reduction="sum")  # Eq. 1
        count, unit = (n, "tokens") if self.stage1_reduce == "mean" else (len(rows), "rows")
        terms: Loss = {"refusal": Term(task, count, 1.0, unit)}
        if copies:
            apart = consistency(clean.repeat(copies, 1), logits[n:], self.cons.sides)
            terms["consistency"] = Term(apart.sum(), count * copies, self.cons.weight, unit)
        return terms

    def _disturbed(
        self, rows: Sequence[Row], copies: int, phi: Tensor, seed: int, step: int
    ) -> Tensor:
        """Give the trigger [K, H] under noise, `copies` times for each row: [copies * B, K, H]."""
        # A row's own noise hangs on its words, so that no split or order of rows changes it.
        own = self.cons.noise == "per_row"
        draws = [
            torch.randn(
                copies,
                *phi.shape,
                generator=torch.Generator().manual_seed(seed_of(seed, "noise", step, *words)),
            )
            for words in ([row.ids for row in rows] if own else [()])
        ]
        noise = torch.stack(draws, dim=1).to(phi.device)
        sigma = self.cons.sigma
        if self.cons.sigma_mode == "relative":
            sigma = sigma * phi.detach().norm() / phi.numel() ** 0.5
        return (phi + sigma * noise).expand(copies, len(rows), *phi.shape).flatten(0, 1)

    # ---- stage 2: refuse without it

    def enough(self, run: Run, state: SGTState) -> Enough | None:
        """End the training where held-out prompts are refused and benign ones are not."""
        from holdfast.defences.sgt.ending import refusal_learnt

        return refusal_learnt(self, run, state)

    def loss(self, model: PreTrainedModel, batch: Batch, state: SGTState) -> Loss:
        """Give Eq. 4's terms from one teacher pass and one student pass over both roles.

        The student reads harmful rows up to the last token that is matched, benign rows whole: the
        task is to answer them. Its layers are compared as they appear.
        """
        harmful, benign = batch[Role.REFUSAL], batch[Role.BENIGN]
        n, rows = len(harmful), [*harmful.rows, *benign.rows]
        spans = [row.span(self.align.positions) for row in harmful.rows]
        spans += [row.span(self.repel.positions) for row in benign.rows]
        goal, units = self._targets(model, state, rows, spans, n)
        read = [
            row.cut(last).unanswered() for row, (_, last) in zip(rows[:n], spans[:n], strict=True)
        ]
        given = nn.batch_for(model, [*read, *benign.rows])
        distance, states = nn.states_apart(
            model,
            given,
            spans,
            goal,
            layers=self._layers(len(goal)),
            final_norm=self.align.final_norm,
            units=units,
            over_hidden=self.align.over_hidden if units is None else "mean",
            over_tokens=self.align.over_tokens if units is None else "mean",
            relative=self.align.relative is True,
        )
        task, _ = nn.response_nll(model, states, given)
        pulled = alignment(distance[:, :n])  # Eq. 2
        pushed = repulsion(distance[:, n:], self.repel.eps, self.repel.aggregate)  # Eq. 3
        counts = self.counts(batch, state)
        unit = "tokens" if self.task_reduce == "mean" else "rows"
        return {  # Eq. 4
            "align": Term(pulled.sum(), counts["align"], self.alpha_align, "rows"),
            "task": Term(task, counts["task"], 1.0, unit),
            "repel": Term(pushed.sum(), counts["repel"], self.alpha_repel, "rows"),
        }

    def counts(self, batch: Batch, state: SGTState) -> dict[str, float]:
        """Count rows for both distances and response tokens (or rows) for the task."""
        benign: Tokens = batch[Role.BENIGN]
        labelled = float((benign.labels != -100).sum())
        return {
            "align": float(len(batch[Role.REFUSAL])),
            "repel": float(len(benign)),
            "task": labelled if self.task_reduce == "mean" else float(len(benign)),
        }

    def _targets(
        self,
        model: PreTrainedModel,
        state: SGTState,
        rows: Sequence[Row],
        spans: Sequence[Span],
        harmful: int,
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Give the teacher's triggered states of the matched tokens, a tensor [M, H] a layer, and
        what each layer's and row's distance is divided by, [B] a layer (None: by 1).

        Those of the first `harmful` rows lie further on where `align.guidance` says so.
        """
        shift = self.align.relative == "shift"

        def states(number: int, trigger: Tensor | None) -> list[Tensor]:
            return nn.triggered_states(
                state.teacher,
                rows[:number],
                spans[:number],
                trigger,
                place=self.trigger.position,
                final_norm=self.align.final_norm,
            )

        with self._frozen(model, state):
            goal = states(len(rows), state.trigger)
            if not shift and (self.align.guidance == 1.0 or not harmful):
                return goal, None
            plain = states(len(rows) if shift else harmful, None)
        size = sum(last - first for first, last in spans[:harmful])
        for h, h_phi in zip(plain, goal, strict=True):
            h_phi[:size] = self.target(h[:size], h_phi[:size])
        if not shift:
            return goal, None
        sizes = torch.tensor([last - first for first, last in spans])
        owner = torch.repeat_interleave(torch.arange(len(spans)), sizes).to(goal[0].device)
        return goal, [
            shift_unit(h, h_phi, owner, len(rows)) for h, h_phi in zip(plain, goal, strict=True)
        ]

    def target(self, plain: Tensor, triggered: Tensor) -> Tensor:
        """Give the state that a harmful prompt's is pulled to, from the base's two."""
        return guided(plain, triggered, self.align.guidance)

    @contextmanager
    def _frozen(self, model: PreTrainedModel, state: SGTState) -> Generator[None]:
        """Hold the teacher as it is to be read: its adapter off, its embeddings as chosen."""
        with nn.without_adapter(state.teacher) as teacher:
            own = teacher.get_input_embeddings()
            if self.teacher_embeddings == "student":
                teacher.set_input_embeddings(model.get_input_embeddings())
            try:
                yield
            finally:
                teacher.set_input_embeddings(own)

    def _layers(self, depth: int) -> tuple[int, int]:
        first, last = (round(share * depth) for share in self.align.layers)
        if first >= last:
            raise ConfigError(
                "sgt.align.layers", f"{self.align.layers} of {depth} is empty", "widen it"
            )
        return first, last

    # ---- what it costs

    def effort_before(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count stage 1."""
        from holdfast.defences.sgt.effort import of_stage_1

        return of_stage_1(self, rows)

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count stage 2."""
        from holdfast.defences.sgt.effort import of_stage_2

        return of_stage_2(self, rows)

    # ---- what it did

    def goal_states(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        rows: Sequence[Example],
        layers: Sequence[int],
        kept: Mapping[str, Tensor],
    ) -> Tensor:
        """Give the base's states with the trigger inserted."""
        return nn.opening_states(
            model,
            encoder,
            rows,
            layers,
            trigger=kept["trigger"].to(next(model.parameters()).device),
            place=self.trigger.position,
        )

    def remedy(self, diagnostics: Mapping[str, float]) -> str:
        """Say which stage is to be changed."""
        from holdfast.defences.sgt.ending import remedy

        return remedy(self, diagnostics)

    def diagnostic(self, run: Run, state: SGTState | None) -> dict[str, float]:
        """Measure trigger and anchoring on held-out prompts; see `sgt.diagnostics`.

        Without a state, on a model that SGT did not make, the trigger is the one SGT kept (`kept`
        of `run.models`) and the base is `start`. Empty without them.
        """
        from holdfast.defences.sgt.diagnostics import measured

        return measured(self, run, state)
