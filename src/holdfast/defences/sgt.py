"""SGT, the Safety Guidance Trigger (Shin et al., ACL 2026).

Stage 1 learns one embedding vector that makes the frozen base refuse. Stage 2 trains the model so
that its hidden states on the plain harmful prompt equal the base's on the triggered one, and
discards the vector. Symbols: L blocks, B rows, T tokens, H width, N positions, V vocabulary.

A *fidelity row* is one of the numbered choices in docs/fidelity/sgt.md.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from holdfast import nn
from holdfast.api import (
    Batch,
    Count,
    Loop,
    Loss,
    LossDefence,
    NotNegative,
    Positive,
    Run,
    Share,
    Term,
)
from holdfast.api import seed as seed_of
from holdfast.api.fields import LATER, AsTuple, Fields
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.tokens import collate
from holdfast.errors import ConfigError
from holdfast.nn.spans import Positions, matched_span

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Encoder, Row, Tokens

Reduce = Literal["mean", "sum"]

OPENING = 4
"""Tokens of an answer that tell whether it is one of the known refusals."""
PART = 16
"""Held-out rows in one pass of the diagnostics."""
HELD_OUT = 96
"""Most held-out rows of a role the diagnostics look at: a share of them is good to 0.05."""

_STAGE_1: dict[str, Any] = {"steps": 1250, "batch": 4, "lr": 1e-3, "clip": None}
_STAGE_2: dict[str, Any] = {"steps": 1875, "batch": 4, "lr": 1e-5, "schedule": "linear"}


def consistency(clean: Tensor, noisy: Tensor) -> Tensor:
    """Give KL(p_clean || p_noisy) at each position, [N, V], [N, V] -> [N], in nats, fp32.

    The clean side is a constant (fidelity row 20); 0 where both are equal.
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


def guided(plain: Tensor, triggered: Tensor, guidance: float) -> Tensor:
    """Give h + g (h_phi - h), [..., H], [..., H] -> [..., H]: how far the trigger moves a state, g
    times. At g = 1 it is the paper's target h_phi; ours beyond.
    """
    if guidance == 1.0:
        return triggered
    return torch.lerp(plain, triggered, guidance)  # Eq. 2's target


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
    """Where it is inserted; source: the released code (fidelity row 1)."""
    length: Count = 1
    """Vectors, each learned; source: the paper's 1."""
    init_std: Positive = 0.01
    """Standard deviation of the first draw; source: the paper's appendix."""
    file: Annotated[str | None, Field(json_schema_extra=LATER)] = None
    """A trigger trained before, as a hardened checkpoint keeps it (`state/trigger.safetensors`):
    stage 1 is then left out. One of another model, format or position is refused."""

    def key_fields(self) -> dict[str, Any]:
        """Give the fields, a file by its bytes."""
        plain = super().key_fields()
        if self.file is not None and (path := Path(self.file)).is_file():
            plain["file"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return plain


class Consistency(Fields):
    """The KL term of stage 1."""

    weight: NotNegative = 1.0
    """alpha_cons; source: the paper."""
    sigma: NotNegative = 0.01
    """Standard deviation of the noise; source: the paper."""
    sigma_mode: Literal["absolute", "relative"] = "absolute"
    """`relative` multiplies sigma by |phi| / sqrt(H) (fidelity row 21)."""
    samples: Count = 2
    """Noise draws a step; source: the paper."""
    noise: Literal["per_batch", "per_row"] = "per_batch"
    """Whether rows share a draw; the released code's do."""


class Align(Fields):
    """Which hidden states are matched and how their distance is reduced."""

    positions: Positions = "generation"
    """`generation`: the position that emits the first response token, and the teacher-forced
    refusal (fidelity row 4); `prompt`: the paper's literal reading; `response`: the released
    code; `all`; `last_prompt`."""
    layers: Annotated[tuple[Share, Share], AsTuple] = (0.0, 1.0)
    """Range of blocks as fractions of depth; (0, 1) is all L."""
    final_norm: bool = True
    """Take the last block after the final norm, as Hugging Face's `hidden_states` does."""
    over_hidden: Reduce = "mean"
    """Reduction over H (fidelity row 8); the paper's norm is a sum."""
    over_tokens: Reduce = "mean"
    """Reduction over the matched tokens of a row."""
    relative: bool = False
    """Divide each layer by the teacher's own mean square (fidelity row 9)."""
    guidance: Annotated[Positive, Field(json_schema_extra=LATER)] = 1.0
    """How many times the trigger's shift the target lies beyond the plain state; the paper's is 1.
    More gives the refusal a larger margin than the trigger has; ours (docs/results/sgt.md)."""


class Repel(Fields):
    """The repulsion of benign states from their triggered versions."""

    positions: Positions = "generation"
    """Same rule as alignment (fidelity row 15)."""
    aggregate: Literal["log_of_mean", "mean_of_logs"] = "log_of_mean"
    """Paper's form, or the released code's (fidelity row 12)."""
    eps: Positive = 1e-3
    """epsilon_r; source: the released code (the paper says "small")."""


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
    cost: ClassVar[str] = "stage 1: (1+K)F + inputs-only B; stage 2: 2F + 1B; guided: 3F + 1B"
    fidelity: ClassVar[str] = (
        "paper and released code read; what they leave open is a field with its measured effect, "
        "but for four points told on its page; published numbers not reproduced at their scale"
    )
    neutral: ClassVar[dict[str, Any]] = {"alpha_align": 0.0, "alpha_repel": 0.0}
    signal: ClassVar[str] = "anchor_error"  # what Eq. 2 brings down; refusing alone does not
    moves: ClassVar[Literal["up", "down"]] = "down"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "align": {"positions": "prompt", "over_hidden": "sum"},
            "repel": {"positions": "prompt"},
            "task_reduce": "sum",
            "loop": _STAGE_2 | {"precision": "bf16_pure"},
        },
        "released": {
            "alpha_align": 1.0,
            "alpha_repel": 1.0,
            "align": {"positions": "response"},
            "repel": {"positions": "response", "aggregate": "mean_of_logs"},
            "teacher_embeddings": "student",
            "refusal": "I can't answer.",
            "stage1": _STAGE_1 | {"weight_decay": 0.01},
            "loop": _STAGE_2
            | {"steps": 625, "lr": 5e-5, "batching": "mixed", "precision": "bf16_pure"},
        },
        "guided": {"align": {"guidance": 1.5}},
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
    teacher_embeddings: Annotated[Literal["own", "student"], Field(json_schema_extra=LATER)] = "own"
    """Whose input embeddings the teacher reads: the frozen base's, or the student's current ones as
    in the released code (fidelity row 17; they differ where embeddings are trained)."""
    refusal: Annotated[str | tuple[str, ...] | None, AsTuple] = None
    """One refusal text for every harmful prompt, or several, each prompt keeping one of them by its
    hash; None takes each row's own (fidelity row 23)."""
    n_refusal: Count | None = None
    """Distinct harmful prompts; None takes all of the defender's. With `n_benign` it says how many
    examples there are and how many of them are harmful (fidelity row 27: 2,500 and 2,500)."""
    n_benign: Count | None = None
    """Distinct benign rows; None takes all of the defender's."""
    n_stage1: Annotated[Count | None, Field(json_schema_extra=LATER)] = None
    """Distinct harmful prompts the trigger learns from; None takes stage 2's (fidelity row 22).
    The two share rows: the smaller set lies inside the larger."""
    stage1: Loop = Loop(**_STAGE_1)
    """Trains the trigger alone; source: the paper (5,000 prompts, 1 epoch, batch 4, 1e-3)."""
    loop: Loop = Loop(**_STAGE_2)
    """Stage 2; source: the paper (5,000 rows, 3 epochs, batch 8, 1e-5), linear as the code's."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's refusals and benign rows."""
        if self.trigger.file is not None and not Path(self.trigger.file).is_file():
            raise ConfigError(
                f"{self.name()}.trigger.file", f"no such file {self.trigger.file}", "check the path"
            )
        draw = seed_of(seed, "draw")
        self._harmful(pool, seed, self.n_stage1)  # too few for stage 1 is told before it starts
        benign = pool.draw(Role.BENIGN, Side.DEFENDER, self.n_benign, draw, what=self.name())
        return {Role.REFUSAL: self._harmful(pool, seed, self.n_refusal), Role.BENIGN: benign}

    def _harmful(self, pool: Pool, seed: int, n: int | None) -> list[Example]:
        draw = seed_of(seed, "draw")
        rows = pool.draw(Role.REFUSAL, Side.DEFENDER, n, draw, what=self.name())
        return rows if self.refusal is None else [self._refused(row) for row in rows]

    def _refused(self, row: Example) -> Example:
        texts = (self.refusal,) if isinstance(self.refusal, str) else self.refusal or ()
        return example(
            row.prompt,
            texts[int(row.uid, 16) % len(texts)],
            role=row.role,
            side=row.side,
            group=row.group,
            system=row.system,
            category=row.category,
            source=row.source,
            meta=row.meta,
        )

    def copies(self) -> int:
        """Count the teacher; under LoRA the model is its own."""
        return 0 if self.loop.lora is not None else 1

    # ---- stage 1

    def setup(self, run: Run) -> SGTState:
        """Learn the trigger on the frozen model, which stays as the teacher.

        Under LoRA no weight of it moves, so the model with its adapter off is the teacher; full
        fine-tuning needs a second copy.
        """
        shared = self.loop.lora is not None
        teacher = run.model if shared else copy.deepcopy(run.model)
        teacher.requires_grad_(False).eval()
        device = next(teacher.parameters()).device
        phi = self._given(teacher, run) if self.trigger.file else self._learned(teacher, run)
        phi = phi.detach().to(device)
        typical = teacher.get_input_embeddings().weight.detach().float().norm(dim=1).mean()
        run.log(trigger_norm=float(phi.norm(dim=1).mean()), embedding_norm=float(typical))
        about = nn.trigger_about(teacher, run.encoder, self.trigger.position, phi)
        return SGTState(phi, teacher, run.encoder, {"trigger": phi.cpu()}, about)

    def _given(self, teacher: PreTrainedModel, run: Run) -> Tensor:
        """Read a trigger trained before."""
        path, place = Path(str(self.trigger.file)), self.trigger.position
        phi = nn.load_trigger(path, teacher, run.encoder, place)
        if len(phi) != self.trigger.length:
            raise ConfigError(
                f"{self.name()}.trigger.length",
                f"{self.trigger.length}, the file's is {len(phi)}",
                f"set it to {len(phi)}",
            )
        return phi

    def _learned(self, teacher: PreTrainedModel, run: Run) -> Tensor:
        """Train the trigger: stage 1."""
        width = nn.embedding_width(teacher)
        generator = torch.Generator().manual_seed(seed_of(run.seed, "init", "trigger"))
        first = torch.randn(self.trigger.length, width, generator=generator)
        device = next(teacher.parameters()).device
        phi = (first * self.trigger.init_std).to(device).requires_grad_(True)
        if run.fit is None:
            raise ConfigError(self.name(), "has no trainer", "call it through holdfast.train")
        run.fit(
            "trigger",
            {"trigger": phi},
            lambda batch, step: self.stage1_loss(teacher, batch, phi, run.seed, step),
            {Role.REFUSAL: self._harmful(run.pool, run.seed, self.n_stage1 or self.n_refusal)},
            self.stage1,
        )
        return phi

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
        packed = nn.pack_for(teacher)
        wide = nn.pack(tokens.rows * (1 + copies)) if packed else _repeat(tokens, 1 + copies)
        states = nn.forward(teacher, wide, trigger=triggers, place=self.trigger.position)
        logits, labels = nn.generation_logits(teacher, states.last, wide)
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
        """Give Eq. 4's terms from one student pass and one teacher pass over both roles.

        Rows are cut behind the last token that is matched or answers; the teacher's rows behind
        the last that is matched.
        """
        harmful, benign = batch[Role.REFUSAL], batch[Role.BENIGN]
        matched = [matched_span(row, self.align.positions) for row in harmful.rows]
        matched += [matched_span(row, self.repel.positions) for row in benign.rows]
        short = [
            row.cut(last)
            for row, (_, last) in zip([*harmful.rows, *benign.rows], matched, strict=True)
        ]
        long = [*short[: len(harmful)], *benign.rows]
        passes = self._packed if nn.pack_for(model) else self._padded
        distance, task = passes(model, state, short, long, matched, benign)
        counts = self.counts(batch, state)
        aligned, repelled = distance[:, : len(harmful)], distance[:, len(harmful) :]
        return {  # Eq. 4
            "align": Term(alignment(aligned).sum(), counts["align"], self.alpha_align, "rows"),
            "task": Term(
                task, counts["task"], 1.0, "tokens" if self.task_reduce == "mean" else "rows"
            ),
            "repel": Term(
                repulsion(repelled, self.repel.eps, self.repel.aggregate).sum(),
                counts["repel"],
                self.alpha_repel,
                "rows",
            ),
        }

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

    def _packed(
        self,
        model: PreTrainedModel,
        state: SGTState,
        short: list[Row],
        long: list[Row],
        matched: list[tuple[int, int]],
        benign: Tokens,
    ) -> tuple[Tensor, Tensor]:
        """Give the distances [L, B] and the task's sum from rows end to end, without padding.

        The teacher goes first and keeps its states of matched tokens; the student's layers are
        compared with them as they appear, so no second stack of states is held.
        """
        norm = self.align.final_norm
        with self._frozen(model, state):
            goal = nn.triggered_states(
                state.teacher,
                short,
                matched,
                state.trigger,
                place=self.trigger.position,
                final_norm=norm,
            )
            self._beyond(goal, state, short, matched, len(long) - len(benign))
        layers = self._layers(len(goal))
        apart, last = nn.states_apart(
            model, nn.pack(long), matched, goal, layers=layers, final_norm=norm, **self._how()
        )
        start = sum(len(row.ids) for row in long[: len(long) - len(benign)])
        task, _ = nn.response_nll(model, last[start:], nn.pack(benign.rows))
        return apart, task

    def _beyond(
        self,
        goal: list[Tensor],
        state: SGTState,
        rows: list[Row],
        matched: list[tuple[int, int]],
        harmful: int,
    ) -> None:
        """Move the targets of the first `harmful` rows on, in place, as `align.guidance` says."""
        if self.align.guidance == 1.0 or not harmful:
            return
        plain = nn.triggered_states(
            state.teacher,
            rows[:harmful],
            matched[:harmful],
            None,
            final_norm=self.align.final_norm,
        )
        for h, h_phi in zip(plain, goal, strict=True):
            h_phi[: len(h)] = guided(h, h_phi[: len(h)], self.align.guidance)

    def _padded(
        self,
        model: PreTrainedModel,
        state: SGTState,
        short: list[Row],
        long: list[Row],
        matched: list[tuple[int, int]],
        benign: Tokens,
    ) -> tuple[Tensor, Tensor]:
        """Give the same from padded rows, for attention that cannot be packed."""
        given, asked = collate(long, state.encoder.pad_id), collate(short, state.encoder.pad_id)
        student = nn.forward(model, given, layers=True, final_norm=self.align.final_norm)
        with torch.no_grad(), self._frozen(model, state):
            teacher = nn.hidden_states(
                state.teacher,
                asked,
                trigger=state.trigger,
                place=self.trigger.position,
                final_norm=self.align.final_norm,
            )
            if self.align.guidance != 1.0:
                plain = nn.hidden_states(state.teacher, asked, final_norm=self.align.final_norm)
                harmful = len(long) - len(benign)
                for h, h_phi in zip(plain, teacher, strict=True):
                    h_phi[:harmful] = guided(h[:harmful], h_phi[:harmful], self.align.guidance)
        first, last = self._layers(len(teacher))
        width = asked.ids.shape[1]
        h_s = [h[:, :width] for h in student.layers[first:last]]
        select = torch.zeros(len(short), width, dtype=torch.bool)
        for mark, (begin, end) in zip(select, matched, strict=True):
            mark[begin:end] = True
        distance = squared_distance(
            h_s, teacher[first:last], select.to(h_s[0].device), **self._how()
        )
        answers = student.last[len(long) - len(benign) :, : benign.ids.shape[1]]
        return distance, nn.response_nll(model, answers, collate(list(benign.rows), 0))[0]

    def _how(self) -> dict[str, Any]:
        return {
            "over_hidden": self.align.over_hidden,
            "over_tokens": self.align.over_tokens,
            "relative": self.align.relative,
        }

    def _layers(self, depth: int) -> tuple[int, int]:
        first, last = (round(share * depth) for share in self.align.layers)
        if first >= last:
            raise ConfigError(
                "sgt.align.layers", f"{self.align.layers} of {depth} is empty", "widen it"
            )
        return first, last

    def diagnostic(self, run: Run, state: SGTState | None) -> dict[str, float]:
        """Measure trigger and anchoring on held-out prompts of the defender.

        Shares of prompts whose greedy answer opens as one of the refusals: `trigger_refusal_rate`
        (base, with the trigger), `..._noise` (the trigger disturbed as in stage 1), `..._benign`
        (on benign prompts; the base refusing them too is what repulsion is for), and without a
        trigger `base_refusal_rate`, `refusal_rate`, `refusal_rate_benign`.
        Relative squared distances: `anchor_error` to the teacher's triggered states, beside its
        value before training and by layer; `drift`, `drift_benign` to the base's plain states.
        `teacher_spread`: how much the triggered states vary over prompts; near 0 the trigger says
        one thing whatever it is asked. Linear CKA over prompts, where the answer begins:
        `cka_teacher`, `cka_base`. Empty where the pool has no refusals on the defender's selection
        side; benign values are left out where it has no benign rows there.

        Without a state, on a model that SGT did not make, the trigger is the one SGT kept (`kept`
        of `run.models`) and the base is `start`. Empty without them.
        """
        if not run.pool.has(Role.REFUSAL, Side.DEFENDER_SELECTION):
            return {}
        if state is None:
            kept = run.models.get("kept", {})
            if "trigger" not in kept or "start" not in run.models:
                return {}
            phi = kept["trigger"].to(next(run.model.parameters()).device)
            state = SGTState(phi, run.model, run.encoder)
        result = self._checks(run, state, Role.REFUSAL)
        if run.pool.has(Role.BENIGN, Side.DEFENDER_SELECTION):
            benign = self._checks(run, state, Role.BENIGN)
            result["trigger_refusal_rate_benign"] = benign["trigger_refusal_rate"]
            result["refusal_rate_benign"] = benign["refusal_rate"]
            result["drift_benign"] = benign["drift"]
        return result

    def _checks(self, run: Run, state: SGTState, role: Role) -> dict[str, float]:
        draw = seed_of(run.seed, "draw")
        rows = run.pool.draw(role, Side.DEFENDER_SELECTION, None, draw)[:HELD_OUT]
        if role is Role.REFUSAL and self.refusal is not None:
            rows = [self._refused(row) for row in rows]
        coded = run.encoder.batch(rows).rows
        asked = run.encoder.prompts(rows).rows
        known = self._openings(run)
        phi, place = state.trigger, self.trigger.position
        draws = torch.Generator().manual_seed(seed_of(run.seed, "noise", "diagnostic"))
        noise = torch.randn(phi.shape, generator=draws).to(phi.device)
        relative = self.cons.sigma_mode == "relative"
        size = float(phi.norm()) / phi.numel() ** 0.5 if relative else 1.0
        noisy = phi + self.cons.sigma * size * noise
        parts = [range(i, min(i + PART, len(rows))) for i in range(0, len(rows), PART)]
        batches = [collate([coded[i] for i in part], run.encoder.pad_id) for part in parts]
        told = [[asked[i] for i in part] for part in parts]
        pad = run.encoder.pad_id

        def refused(model: PreTrainedModel, trigger: Tensor | None = None) -> float:
            first = (
                nn.openings(model, some, OPENING, pad, trigger=trigger, place=place)
                for some in told
            )
            return sum(one in known for some in first for one in some) / len(rows)

        result = {"refusal_rate": refused(run.model)}
        student = [nn.hidden_states(run.model, tokens) for tokens in batches]
        with self._base(run, state) as base:
            result["trigger_refusal_rate"] = refused(base, phi)
            plain = [nn.hidden_states(base, tokens) for tokens in batches]
            if role is Role.REFUSAL:
                result["trigger_refusal_rate_noise"] = refused(base, noisy)
                result["base_refusal_rate"] = refused(base)
                goal = [nn.hidden_states(base, t, trigger=phi, place=place) for t in batches]
                nll = [nn.nll(base, tokens, trigger=phi, place=place) for tokens in batches]
        which = self.align.positions if role is Role.REFUSAL else self.repel.positions
        selects = [
            select_positions(tokens.rows, tokens.ids.shape[1], which).to(phi.device)
            for tokens in batches
        ]

        def apart(first: list[list[Tensor]], second: list[list[Tensor]]) -> Tensor:
            """Give the relative squared distance of each layer, [L]."""
            each = [
                squared_distance(a, b, select, relative=True)
                for a, b, select in zip(first, second, selects, strict=True)
            ]
            return torch.cat(each, dim=1).mean(1)

        result["drift"] = float(apart(student, plain).mean())
        if role is not Role.REFUSAL:
            return result
        aim = [
            [guided(h, h_phi, self.align.guidance) for h, h_phi in zip(a, b, strict=True)]
            for a, b in zip(plain, goal, strict=True)
        ]
        error = apart(student, aim)
        result["anchor_error"] = float(error.mean())
        result["anchor_error_before"] = float(apart(plain, aim).mean())
        for layer, value in enumerate(error.tolist(), start=1):
            result[f"anchor_error_layer_{layer:02d}"] = value
        result["trigger_refusal_nll"] = float(sum(v for v, _ in nll)) / sum(n for _, n in nll)

        def begins(states: list[list[Tensor]], layer: int) -> Tensor:
            """Give a layer's states where each row's answer begins, [rows, H]."""
            return torch.cat(
                [
                    torch.stack([h[i, row.start - 1] for i, row in enumerate(tokens.rows)])
                    for h, tokens in zip((s[layer] for s in states), batches, strict=True)
                ]
            )

        depth = range(len(error))
        for name, other in (("cka_teacher", goal), ("cka_base", plain)):
            values = [nn.linear_cka(begins(student, i), begins(other, i)) for i in depth]
            result[name] = sum(values) / len(values)
        spreads = [nn.spread(begins(goal, i)) for i in depth]
        result["teacher_spread"] = sum(spreads) / len(spreads)
        return result

    def _openings(self, run: Run) -> set[tuple[int, ...]]:
        """Give the first tokens of every refusal the defender has."""
        rows = self._harmful(run.pool, run.seed, None)
        coded = (run.encoder.encode(row.prompt, row.response, row.system) for row in rows)
        return {row.ids[row.start :][:OPENING] for row in coded}

    @contextmanager
    def _base(self, run: Run, state: SGTState) -> Generator[PreTrainedModel]:
        """Give the frozen teacher; under LoRA the merged student with its first weights put back.

        Inside, the student is not to be used.
        """
        if state.teacher is run.model:
            with nn.holding(run.model, run.models["start"]) as base:
                yield base
        else:
            yield state.teacher


def select_positions(rows: Sequence[Row], width: int, which: Positions) -> Tensor:
    """Mark the matched tokens of right-padded rows, [B, width]."""
    select = torch.zeros(len(rows), width, dtype=torch.bool)
    for mark, row in zip(select, rows, strict=True):
        first, last = matched_span(row, which)
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
