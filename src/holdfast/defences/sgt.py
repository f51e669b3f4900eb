"""SGT, the Safety Guidance Trigger (Shin et al., ACL 2026).

Stage 1 learns one embedding vector that makes the frozen base refuse. Stage 2 trains the model so
that its hidden states on the plain harmful prompt equal the base's on the triggered one, and
discards the vector. Symbols: L blocks, B rows, T tokens, H width, N positions, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from holdfast import models
from holdfast.config import AsTuple, Fields
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.tokens import collate
from holdfast.errors import ConfigError
from holdfast.lazy import torch
from holdfast.method import Batch, Loss, LossDefence, Run, Term
from holdfast.run import Count, Loop, NotNegative, Positive, Share
from holdfast.run import seed as seed_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Encoder, Tokens

Positions = Literal["generation", "prompt", "response", "all", "last_prompt"]
Reduce = Literal["mean", "sum"]


def consistency(clean: Tensor, noisy: Tensor) -> Tensor:
    """Give KL(p_clean || p_noisy) at each position, [N, V], [N, V] -> [N], in nats, fp32.

    The clean side is a constant (register 9.D row 20); 0 where both are equal.
    """
    p = clean.detach().float().log_softmax(-1)
    q = noisy.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)  # Eq. 1, L_cons


def squared_distance(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    select: Tensor,
    *,
    over_hidden: Reduce = "mean",
    over_tokens: Reduce = "mean",
    relative: bool = False,
) -> Tensor:
    """Give ||h_s - h_t||^2 of each layer and row, in fp32.

    L x [B, T, H], L x [B, T, H], select [B, T] -> [L, B]. Only selected tokens count; a row
    without any gives 0. `relative` divides by the teacher's mean square at those tokens.
    """
    weight = select.float()
    chosen = weight.sum(1).clamp(min=1)
    layers = []
    for h_s, h_t in zip(student, teacher, strict=True):
        square = (h_s.float() - h_t.detach().float()).square().sum(-1)
        size = h_t.detach().float().square().sum(-1) if relative else None
        if over_hidden == "mean":
            square = square / h_s.shape[-1]
            size = size / h_s.shape[-1] if size is not None else None
        d = (square * weight).sum(1)
        if over_tokens == "mean":
            d = d / chosen
        if size is not None:
            d = d / ((size * weight).sum(1) / chosen).clamp(min=1e-12)
        layers.append(d)
    return torch.stack(layers)


def alignment(distance: Tensor) -> Tensor:
    """Give (1/L) sum over layers of the squared distance, [L, B] -> [B]."""
    return distance.mean(0)  # Eq. 2


def repulsion(
    distance: Tensor, eps: float, aggregate: Literal["log_of_mean", "mean_of_logs"]
) -> Tensor:
    """Give log(1 + 1 / (d_b + eps)), [L, B] -> [B]; finite at 0, falling in the distance.

    `log_of_mean` averages layers first, as the paper writes; `mean_of_logs` as its code does.
    """
    if aggregate == "log_of_mean":
        return torch.log1p(1.0 / (distance.mean(0) + eps))  # Eq. 3, L_repel
    return torch.log1p(1.0 / (distance + eps)).mean(0)


class Trigger(Fields):
    """The soft trigger: where it stands and how it is drawn."""

    position: Literal["after_user_tag", "after_bos", "before_bos", "before_response"] = (
        "after_user_tag"
    )
    """Where it is inserted; source: the released code (register 9.D row 1)."""
    length: Count = 1
    """Vectors, each learned; source: the paper's 1."""
    init_std: Positive = 0.01
    """Standard deviation of the first draw; source: the paper's appendix."""


class Consistency(Fields):
    """The KL term of stage 1."""

    weight: NotNegative = 1.0
    """alpha_cons; source: the paper."""
    sigma: NotNegative = 0.01
    """Standard deviation of the noise; source: the paper."""
    sigma_mode: Literal["absolute", "relative"] = "absolute"
    """`relative` multiplies sigma by |phi| / sqrt(H) (register 9.D row 21)."""
    samples: Count = 2
    """Noise draws a step; source: the paper."""
    noise: Literal["per_batch", "per_row"] = "per_batch"
    """Whether rows share a draw; the released code's do."""


class Align(Fields):
    """Which hidden states are matched and how their distance is reduced."""

    positions: Positions = "generation"
    """`generation`: the position that emits the first response token, and the teacher-forced
    refusal (register 9.D row 4); `prompt`: the paper's literal reading; `response`: the released
    code; `all`; `last_prompt`."""
    layers: Annotated[tuple[Share, Share], AsTuple] = (0.0, 1.0)
    """Range of blocks as fractions of depth; (0, 1) is all L."""
    final_norm: bool = True
    """Take the last block after the final norm, as Hugging Face's `hidden_states` does."""
    over_hidden: Reduce = "mean"
    """Reduction over H (register 9.D row 8); the paper's norm is a sum."""
    over_tokens: Reduce = "mean"
    """Reduction over the matched tokens of a row."""
    relative: bool = False
    """Divide each layer by the teacher's own mean square (register 9.D row 9)."""


class Repel(Fields):
    """The repulsion of benign states from their triggered versions."""

    positions: Positions = "generation"
    """Same rule as alignment (register 9.D row 15)."""
    aggregate: Literal["log_of_mean", "mean_of_logs"] = "log_of_mean"
    """Paper's form, or the released code's (register 9.D row 12)."""
    eps: Positive = 1e-3
    """epsilon_r; source: the released code (the paper says "small")."""


@dataclass
class SGTState:
    """The trigger [K, H], the frozen teacher (under LoRA the student itself, its adapter off),
    and what is kept with the artefact.
    """

    trigger: Tensor
    teacher: PreTrainedModel
    encoder: Encoder
    keep: dict[str, Tensor] = field(default_factory=dict)


class SGT(LossDefence):
    """Learn a trigger that makes the base refuse, then refuse without it."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "benign")
    paper: ClassVar[str] = "Shin et al., ACL 2026 (long 463)"
    equation: ClassVar[str] = "alpha_align * L_align + L_task + alpha_repel * L_repel (Eq. 4)"
    cost: ClassVar[str] = "stage 1: (1+K)F + inputs-only B; stage 2: 2F + 1B"
    neutral: ClassVar[dict[str, Any]] = {"alpha_align": 0.0, "alpha_repel": 0.0}
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "align": {"positions": "prompt", "over_hidden": "sum"},
            "repel": {"positions": "prompt"},
            "task_reduce": "sum",
        },
        "released": {
            "alpha_align": 1.0,
            "alpha_repel": 1.0,
            "align": {"positions": "response"},
            "repel": {"positions": "response", "aggregate": "mean_of_logs"},
        },
    }

    alpha_align: NotNegative = 0.01
    """Weight of Eq. 2; source: the paper. Its meaning depends on `align.over_hidden`."""
    alpha_repel: NotNegative = 0.01
    """Weight of the repulsion in Eq. 3; source: the paper."""
    task_reduce: Reduce = "mean"
    """Benign cross-entropy as a mean over response tokens (code) or a sum a row (paper)."""
    trigger: Trigger = Trigger()
    """The soft trigger."""
    cons: Consistency = Consistency()
    """Stage 1's consistency term."""
    align: Align = Align()
    """Stage 2's matching."""
    repel: Repel = Repel()
    """Stage 2's repulsion."""
    refusal: str | None = None
    """One refusal text for every harmful prompt; None takes each row's own."""
    n_refusal: Count | None = None
    """Distinct harmful prompts in both stages; None takes all of the defender's."""
    n_benign: Count | None = None
    """Distinct benign rows; None takes all of the defender's."""
    stage1: Loop = Loop(steps=1250, batch=4, lr=1e-3, clip=None)
    """Trains the trigger alone; source: the paper (5,000 prompts, 1 epoch, batch 4, 1e-3)."""
    loop: Loop = Loop(steps=1875, batch=4, lr=1e-5, schedule="linear")
    """Stage 2; source: the paper (5,000 rows, 3 epochs, batch 8, 1e-5), linear as the code's."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's refusals and benign rows."""
        draw = seed_of(seed, "draw")
        harmful = pool.draw(Role.REFUSAL, Side.DEFENDER, self.n_refusal, draw, what=self.name())
        if self.refusal is not None:
            harmful = [self._refused(row) for row in harmful]
        benign = pool.draw(Role.BENIGN, Side.DEFENDER, self.n_benign, draw, what=self.name())
        return {Role.REFUSAL: harmful, Role.BENIGN: benign}

    def _refused(self, row: Example) -> Example:
        return example(
            row.prompt,
            self.refusal,
            role=row.role,
            side=row.side,
            group=row.group,
            system=row.system,
            category=row.category,
            source=row.source,
            meta=row.meta,
        )

    # ---- stage 1

    def setup(self, run: Run) -> SGTState:
        """Learn the trigger on the frozen model, which stays as the teacher.

        Under LoRA no weight of it moves, so the model with its adapter off is the teacher; full
        fine-tuning needs a second copy.
        """
        shared = self.loop.lora is not None
        teacher = run.model if shared else copy.deepcopy(run.model)
        teacher.requires_grad_(False).eval()
        width = teacher.get_input_embeddings().embedding_dim
        generator = torch.Generator().manual_seed(seed_of(run.seed, "init", "trigger"))
        first = torch.randn(self.trigger.length, width, generator=generator)
        device = next(teacher.parameters()).device
        phi = (first * self.trigger.init_std).to(device).requires_grad_(True)
        if run.fit is None:
            raise ConfigError(self.name(), "has no trainer", "call it through holdfast.training")
        run.fit(
            "trigger",
            {"trigger": phi},
            lambda batch, step: self.stage1_loss(teacher, batch, phi, run.seed, step),
            {Role.REFUSAL: self.rows(run.pool, run.seed)[Role.REFUSAL]},
            self.stage1,
        )
        phi = phi.detach()
        typical = teacher.get_input_embeddings().weight.detach().float().norm(dim=1).mean()
        run.log(trigger_norm=float(phi.norm(dim=1).mean()), embedding_norm=float(typical))
        return SGTState(phi, teacher, run.encoder, {"trigger": phi.cpu()})

    def stage1_loss(
        self, teacher: PreTrainedModel, batch: Batch, phi: Tensor, seed: int, step: int
    ) -> Loss:
        """Give Eq. 1: refusal cross-entropy with the trigger, and consistency under noise.

        The clean and noisy copies go through the frozen model in one pass.
        """
        tokens = batch[Role.REFUSAL]
        copies = self.cons.samples if self.cons.weight > 0 else 0
        rows = len(tokens)
        # A row's own noise hangs on its words, so that no split or order of rows changes it.
        own = self.cons.noise == "per_row"
        draws = [
            torch.randn(
                copies,
                *phi.shape,
                generator=torch.Generator().manual_seed(seed_of(seed, "noise", step, *words)),
            )
            for words in ([row.ids for row in tokens.rows] if own else [()])
        ]
        noise = torch.stack(draws, dim=1).to(phi.device)
        sigma = self.cons.sigma
        if self.cons.sigma_mode == "relative":
            sigma = sigma * phi.detach().norm() / phi.numel() ** 0.5
        noisy = (phi + sigma * noise).expand(copies, rows, *phi.shape).flatten(0, 1)
        triggers = torch.cat([phi.expand(rows, *phi.shape), noisy])
        wide = _repeat(tokens, 1 + copies)
        states = models.forward(teacher, wide, trigger=triggers, place=self.trigger.position)
        logits, labels = models.generation_logits(teacher, states.last, wide)
        n = len(labels) // (1 + copies)
        clean = logits[:n].float()
        task = torch.nn.functional.cross_entropy(clean, labels[:n], reduction="sum")  # Eq. 1
        terms: Loss = {"refusal": Term(task, n, 1.0, "tokens")}
        if copies:
            apart = consistency(clean.repeat(copies, 1), logits[n:])
            terms["consistency"] = Term(apart.sum(), n * copies, self.cons.weight, "tokens")
        return terms

    # ---- stage 2

    def counts(self, batch: Batch, state: SGTState) -> dict[str, float]:
        """Count rows for both distances and response tokens (or rows) for the task."""
        benign = batch[Role.BENIGN]
        labelled = float((benign.labels != -100).sum())
        return {
            "align": float(len(batch[Role.REFUSAL])),
            "repel": float(len(benign)),
            "task": labelled if self.task_reduce == "mean" else float(len(benign)),
        }

    def loss(self, model: PreTrainedModel, batch: Batch, state: SGTState) -> Loss:
        """Give Eq. 4's terms from one student pass and one teacher pass over both roles."""
        harmful, benign = batch[Role.REFUSAL], batch[Role.BENIGN]
        both = collate([*harmful.rows, *benign.rows], state.encoder.pad_id)
        student = models.forward(model, both, layers=True, final_norm=self.align.final_norm)
        with torch.no_grad(), models.without_adapter(state.teacher):
            teacher = models.hidden_states(
                state.teacher,
                both,
                trigger=state.trigger,
                place=self.trigger.position,
                final_norm=self.align.final_norm,
            )
        first, last = self._layers(len(teacher))
        h_s, h_t = student.layers[first:last], teacher[first:last]
        device = h_s[0].device
        cut = len(harmful)
        select = select_positions(harmful.rows, both.ids.shape[1], self.align.positions)
        d_m = self._distance([h[:cut] for h in h_s], [h[:cut] for h in h_t], select.to(device))
        select = select_positions(benign.rows, both.ids.shape[1], self.repel.positions)
        d_b = self._distance([h[cut:] for h in h_s], [h[cut:] for h in h_t], select.to(device))
        wide = collate(list(benign.rows), state.encoder.pad_id)
        logits, labels = models.generation_logits(
            model, student.last[cut:, : wide.ids.shape[1]], wide
        )
        task = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        counts = self.counts(batch, state)
        return {  # Eq. 4
            "align": Term(alignment(d_m).sum(), counts["align"], self.alpha_align, "rows"),
            "task": Term(
                task, counts["task"], 1.0, "tokens" if self.task_reduce == "mean" else "rows"
            ),
            "repel": Term(
                repulsion(d_b, self.repel.eps, self.repel.aggregate).sum(),
                counts["repel"],
                self.alpha_repel,
                "rows",
            ),
        }

    def _distance(self, h_s: list[Tensor], h_t: list[Tensor], select: Tensor) -> Tensor:
        return squared_distance(
            h_s,
            h_t,
            select,
            over_hidden=self.align.over_hidden,
            over_tokens=self.align.over_tokens,
            relative=self.align.relative,
        )

    def _layers(self, depth: int) -> tuple[int, int]:
        first, last = (round(share * depth) for share in self.align.layers)
        if first >= last:
            raise ConfigError(
                "sgt.align.layers", f"{self.align.layers} of {depth} is empty", "widen it"
            )
        return first, last

    def diagnostic(self, run: Run, state: SGTState) -> dict[str, float]:
        """Measure the anchoring on held-out harmful prompts, relative to the teacher's size.

        Empty where the pool has no refusals on the defender's selection side.
        """
        if not run.pool.has(Role.REFUSAL, Side.DEFENDER_SELECTION):
            return {}
        rows = run.pool.draw(Role.REFUSAL, Side.DEFENDER_SELECTION, None, seed_of(run.seed, "draw"))
        tokens = run.encoder.batch(rows)
        place = self.trigger.position
        select = select_positions(tokens.rows, tokens.ids.shape[1], self.align.positions)
        student = models.hidden_states(run.model, tokens)
        select = select.to(student[0].device)
        with self._base(run, state) as base:
            goal = models.hidden_states(base, tokens, trigger=state.trigger, place=place)
            plain = models.hidden_states(base, tokens)
            values, _ = models.log_probs(base, tokens, trigger=state.trigger, place=place)
        error = squared_distance(student, goal, select, relative=True)
        before = squared_distance(plain, goal, select, relative=True)
        return {
            "anchor_error": float(error.mean()),
            "anchor_error_before": float(before.mean()),
            "trigger_refusal_nll": float(-values.mean()),
        }

    @contextmanager
    def _base(self, run: Run, state: SGTState) -> Generator[PreTrainedModel]:
        """Give the frozen teacher; under LoRA the merged student with its first weights put back.

        Inside, the student is not to be used.
        """
        if state.teacher is run.model:
            with models.holding(run.model, run.models["start"]) as base:
                yield base
        else:
            yield state.teacher


def select_positions(rows: Sequence[Any], width: int, which: Positions) -> Tensor:
    """Mark the matched tokens of right-padded rows, [B, width], by meaning and not by id.

    The same words are selected whether or not the tokenizer begins with a BOS token, which is no
    word: in large models its state is by far the largest and would drown the others' distance.
    """
    select = torch.zeros(len(rows), width, dtype=torch.bool)
    for mark, row in zip(select, rows, strict=True):
        first, last = {
            "generation": (row.start - 1, len(row.ids)),
            "prompt": (int(row.bos), row.start),
            "response": (row.start, len(row.ids)),
            "all": (int(row.bos), len(row.ids)),
            "last_prompt": (row.start - 1, row.start),
        }[which]
        mark[first:last] = True
    return select


def _repeat(tokens: Tokens, times: int) -> Tokens:
    """Repeat a batch whole, `times` times, along rows."""
    return type(tokens)(
        tokens.ids.repeat(times, 1),
        tokens.mask.repeat(times, 1),
        tokens.labels.repeat(times, 1),
        tokens.rows * times,
        tokens.left,
    )
