"""Triplet, contrastive representation learning (Simko et al., 2025): rerouting with a margin.

Safe states (of benign answers and of refusals) stay near their old selves and far from where
harmful ones gather; harmful states gather, far from their old selves. Symbols: L blocks, M chosen
tokens, H width; layer k is the state after k blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from holdfast import nn
from holdfast.api import (
    TRAINED,
    Batch,
    Blocks,
    Count,
    Effort,
    Layer,
    Loop,
    LoRA,
    Loss,
    LossDefence,
    NotNegative,
    Positive,
    Rows,
    Run,
    Term,
)
from holdfast.api import seed as seed_of
from holdfast.api.fields import AsTuple
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.data.tokens import collate
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Row, Span, Tokens

Metric = Literal["cosine", "l2"]
Metrics = Annotated[tuple[Metric, Metric], AsTuple]
"""Of the nearer and of the farther distance of a triplet."""
Reduce = Literal["mean", "sum"]
Range = Annotated[tuple[Layer, Layer], AsTuple]
"""First and last layer compared, by number or as fractions of depth."""

HELD_OUT = 96
"""Most held-out rows of a role the diagnostics look at."""
PART = 16
"""Held-out rows in one pass of the diagnostics."""


def distance(first: Tensor, second: Tensor, metric: Metric) -> Tensor:
    """Give d of states at each token, [M, H], [M, H] or [H] -> [M], in fp32.

    `cosine`: 1 - cos, from 0 to 2; `l2`: the Euclidean distance, not normalised. Both sides carry
    gradients.
    """
    a, b = first.float(), second.float()
    if metric == "l2":
        return torch.linalg.vector_norm(a - b, dim=-1)
    lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return 1 - (a * b).sum(-1) / lengths.clamp(min=1e-12)


def benign_triplet(
    new: Tensor, old: Tensor, centre: Tensor, margin: float, metrics: tuple[Metric, Metric]
) -> Tensor:
    """Give relu(d(h_b, h'_b) - d(h'_b, c) + m_b) at each token, [M, H], [M, H], [H] -> [M]."""
    near = distance(old.detach(), new, metrics[0])
    return torch.relu(near - distance(new, centre, metrics[1]) + margin)  # Eq. first term


def harmful_triplet(
    new: Tensor, old: Tensor, centre: Tensor, margin: float, metrics: tuple[Metric, Metric]
) -> Tensor:
    """Give relu(d(h'_h, c) - d(h'_h, h_h) + m_h) at each token, [M, H], [M, H], [H] -> [M]."""
    near = distance(new, centre, metrics[0])
    return torch.relu(near - distance(new, old.detach(), metrics[1]) + margin)  # Eq. second term


def centre_of(harmful: Tensor) -> Tensor:
    """Give c, the mean of the harmful batch's new states over its tokens, [M, H] -> [H], fp32.

    Not detached: the gradient pulls the centre as well as what gathers round it.
    """
    return harmful.float().mean(0)  # Eq. c


@dataclass
class Start:
    """The start, frozen (under LoRA the model itself, its adapter off), and each triplet's layers.

    `layers` are those of either, ascending.
    """

    teacher: PreTrainedModel
    benign: list[int]
    harmful: list[int]

    @property
    def layers(self) -> list[int]:
        """Give every layer that a term reads."""
        return sorted({*self.benign, *self.harmful})


@dataclass
class Part:
    """A micro-batch's rows in the order they pass: harmful ones, benign ones, refusals.

    `cut` is the number of harmful response tokens, `weight` [M] that of each safe one behind them.
    """

    rows: list[Row]
    cut: int
    weight: Tensor
    emit: list[Span] | None

    @property
    def spans(self) -> list[Span]:
        """Give each row's response."""
        return [(row.start, len(row.ids)) for row in self.rows]


class Triplet(LossDefence):
    """Gather harmful states away from their old selves; hold safe ones away from that place."""

    version: ClassVar[int] = 2
    roles: ClassVar[tuple[str, ...]] = ("harmful", "benign", "refusal")
    starts_from: ClassVar[Literal["base", "aligned"]] = "aligned"
    separable: ClassVar[bool] = False
    paper: ClassVar[str] = "arXiv 2506.11938"
    equation: ClassVar[str] = (
        "benign_weight * relu(d(h_b, h'_b) - d(h'_b, c) + m_b) + harmful_weight * "
        "relu(d(h'_h, c) - d(h'_h, h_h) + m_h) + kl_weight * KL(old || new) on benign; "
        "c = mean h'_h of the batch; b are benign rows and refusals"
    )
    cost: ClassVar[str] = "2F + 1B on all three roles; no copy under LoRA"
    fidelity: ClassVar[str] = (
        "the authors' code read; the replication's weights and margins, theirs the preset "
        "`released`; no hard negatives; published numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    signal: ClassVar[str] = "harmful_margin"
    moves: ClassVar[Literal["up", "down"]] = "up"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {
            "benign_metrics": ("l2", "l2"),
            "harmful_metrics": ("l2", "l2"),
            "benign_margin": 500.0,
            "harmful_margin": 1500.0,
        },
        "released": {
            "harmful_weight": 0.6,
            "kl_weight": 0.7,
            "kl_temperature": 2.0,
            "kl_tokens": "all",
            "kl_reduce": "sum",
            "benign_metrics": ("l2", "cosine"),
            "benign_margin": 2.0,
            "harmful_margin": 3.0,
            "benign_layers": (1, 1.0),
            "harmful_layers": (0.625, 0.9375),
            "final_norm": True,
            "loop": {
                "steps": 900,
                "batch": 16,
                "micro_batch": 4,
                "lr": 1e-4,
                "precision": "fp32_master",
                "lora": {"rank": 16, "alpha": 16.0, "through": 0.96875},
            },
        },
    }

    benign_weight: NotNegative = 0.5
    """Weight of the safe rows' triplet; source: the replication in TamperBench, and the released
    script."""
    harmful_weight: NotNegative = 0.4
    """Weight of the harmful triplet; source: the replication in TamperBench (the released script:
    0.6)."""
    refusal_weight: NotNegative = 1.0
    """Weight of a refusal's token beside a benign one's in the safe rows' triplet; source: the
    released code, at least half of whose safe rows are refusals. 0 leaves them out, as the
    replication does: then nothing says what is to be said in place of a harmful answer."""
    kl_weight: NotNegative = 0.9
    """Weight of KL(old || new) on benign rows; source: the replication in TamperBench (the released
    script: 0.7). 0 leaves the head and the blocks behind the last layer out."""
    kl_temperature: Positive = 1.0
    """T: both sides' logits are divided by it and the KL is multiplied by its square; source: the
    replication (the released code: 2)."""
    kl_tokens: Literal["response", "all"] = "response"
    """Where the KL is taken: where response tokens are emitted (the replication), or at every token
    of a benign row (the released code)."""
    kl_reduce: Reduce = "mean"
    """A mean over those tokens, or their sum in a row and the mean over rows (the released
    code)."""
    benign_metrics: Metrics = ("cosine", "cosine")
    """Distances of a safe state to its old self and to the centre; source: the replication, which
    notes that the paper's unnormalised `l2` mostly yields gibberish (the released script: `l2`,
    `cosine`)."""
    harmful_metrics: Metrics = ("cosine", "cosine")
    """Distances of a harmful state to the centre and to its old self; source: the replication and
    the released script (the paper: `l2`)."""
    benign_margin: NotNegative = 0.3
    """m_b, in the metric's unit; source: the replication in TamperBench (the paper: 500 in l2; the
    released script: 2)."""
    harmful_margin: NotNegative = 0.5
    """m_h, in the metric's unit; source: the replication in TamperBench (the paper: 1,500; the
    released script: 3)."""
    benign_layers: Range = (0.625, 0.96875)
    """First and last layer of the safe rows' triplet; source: 20 to 31 of 32, as the replication
    has them (the released script: all)."""
    harmful_layers: Range = (0.625, 0.96875)
    """First and last layer of the harmful triplet; source: the replication (the released script: 20
    to 30 of 32)."""
    final_norm: bool = False
    """Whether the last block's state is read after the final norm, as the released code does; ours,
    so that all layers are of one kind. The KL reads it after the norm either way."""
    n_harmful: Count | None = None
    """Distinct harmful rows; None takes all of the defender's (the original has 10,000)."""
    n_benign: Count | None = None
    """Distinct benign rows; None takes all of the defender's (the original has 10,000)."""
    n_refusal: Count | None = None
    """Distinct refusals; None takes all of the defender's."""
    loop: Loop = Loop(steps=1100, batch=16, lr=1e-5, lora=LoRA(rank=16, alpha=16.0))
    """Source: the replication in TamperBench (1,100 steps, batch 16, 1e-5, rank and alpha 16 on all
    linear layers); the constant rate from the released script."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's harmful answers, benign rows and refusals."""
        draw = seed_of(seed, "draw")
        wanted = {
            Role.HARMFUL: self.n_harmful,
            Role.BENIGN: self.n_benign,
            Role.REFUSAL: self.n_refusal,
        }
        return {
            role: pool.draw(role, Side.DEFENDER, n, draw, what=self.name())
            for role, n in wanted.items()
        }

    def copies(self) -> int:
        """Count the frozen start; under LoRA the model with its adapter off is it."""
        return 0 if self.loop.lora is not None else 1

    def setup(self, run: Run) -> Start:
        """Check the layers and keep the start.

        Raises:
            ConfigError: a layer beyond the model's depth, or a range that is empty.
        """
        depth = len(nn.blocks(run.model))
        benign, harmful = self._numbers(depth)
        teacher = nn.starting_model(run.model, self.loop.lora is not None)
        return Start(teacher, benign, harmful)

    def _numbers(self, depth: int) -> tuple[list[int], list[int]]:
        """Give the layers of the safe rows' triplet and of the harmful one."""
        found = []
        for name in ("benign_layers", "harmful_layers"):
            where, given = f"{self.name()}.{name}", getattr(self, name)
            first, last = (nn.layer_number(layer, depth, where) for layer in given)
            if first > last:
                raise ConfigError(where, f"{given} of {depth} is empty", "put the lower one first")
            found.append(list(range(first, last + 1)))
        return found[0], found[1]

    def counts(self, batch: Batch, state: Start) -> dict[str, float]:
        """Count tokens times layers for both triplets, refusals by their weight; for the KL tokens,
        or rows where it is a sum.
        """
        harmful, benign = _answered(batch[Role.HARMFUL]), batch[Role.BENIGN]
        safe = sum(w * _answered(tokens) for tokens, w in self._safe(batch))
        seen = sum(b - a for a, b in self._told(benign))
        return {
            "harmful": float(len(state.harmful) * harmful),
            "benign": float(len(state.benign) * safe if harmful else 0),
            "kl": float(seen if self.kl_reduce == "mean" else len(benign)),
        }

    def _safe(self, batch: Batch) -> list[tuple[Tokens, float]]:
        """Give the safe rows and their weights."""
        safe = ((batch[Role.BENIGN], 1.0), (batch[Role.REFUSAL], self.refusal_weight))
        return [(tokens, weight) for tokens, weight in safe if weight and len(tokens)]

    def _told(self, benign: Tokens) -> list[Span]:
        """Give the tokens of each benign row at which the KL is taken."""
        if self.kl_tokens == "all":
            return [(0, len(row.ids)) for row in benign.rows]
        return [(row.start - 1, len(row.ids) - 1) for row in benign.rows]

    def _part(self, batch: Batch) -> Part:
        harmful, benign, safe = batch[Role.HARMFUL], batch[Role.BENIGN], self._safe(batch)
        weight = torch.tensor([w for tokens, w in safe for _ in range(_answered(tokens))])
        rows = [*harmful.rows, *(row for tokens, _ in safe for row in tokens.rows)]
        emit = None
        if self.kl_weight and len(benign):
            emit = [(0, 0)] * len(harmful) + self._told(benign)
            emit += [(0, 0)] * (len(rows) - len(emit))
        return Part(rows, _answered(harmful), weight, emit)

    def loss(self, model: PreTrainedModel, batch: Batch, state: Start) -> Loss:
        """Give the three terms from one pass of the start and one of the model over all roles.

        A mixed micro-batch may lack a role: without harmful rows there is no centre and so no
        triplet.
        """
        part, counts = self._part(batch), self.counts(batch, state)
        whole, layers, norm = collate(part.rows, 0), state.layers, self.final_norm
        with torch.no_grad(), nn.without_adapter(state.teacher) as teacher:
            kept, old_last = nn.layer_states(
                teacher, whole, part.spans, layers, final_norm=norm, emit=part.emit
            )
        start, sums = dict(zip(layers, kept, strict=True)), {"harmful": [], "benign": []}
        del kept
        see = self._comparing(start, part, state, sums)
        _, last = nn.layer_states(
            model, whole, part.spans, layers, final_norm=norm, see=see, emit=part.emit
        )
        terms, weights = {}, {"harmful": self.harmful_weight, "benign": self.benign_weight}
        for name, weight in weights.items():
            if counts[name]:
                terms[name] = Term(torch.stack(sums[name]).sum(), counts[name], weight, "tokens")
        if last is not None and old_last is not None:
            heat, unit = self.kl_temperature, "tokens" if self.kl_reduce == "mean" else "rows"
            value = nn.head_kl(state.teacher, old_last, model, last, temperature=heat)
            terms["kl"] = Term(heat**2 * value, counts["kl"], self.kl_weight, unit)  # Eq. third
        return terms

    def _comparing(
        self, start: dict[int, Tensor], part: Part, state: Start, sums: dict[str, list[Tensor]]
    ) -> Callable[[int, Tensor], None]:
        """Give what takes a layer's states of the model and adds its sums; the start's are dropped
        as soon as they have been compared.
        """
        cut, of = part.cut, (self.benign_margin, self.benign_metrics)

        def see(k: int, h: Tensor) -> None:
            h_0 = start.pop(k)
            if not cut:
                return
            c = centre_of(h[:cut])
            if k in state.harmful:
                margin, metrics = self.harmful_margin, self.harmful_metrics
                found = harmful_triplet(h[:cut], h_0[:cut], c, margin, metrics)
                sums["harmful"].append(found.sum())
            if k in state.benign:
                found = benign_triplet(h[cut:], h_0[cut:], c, *of)
                sums["benign"].append((part.weight.to(found.device) * found).sum())

        return see

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count the start's pass and the model's over all roles; both heads where the KL is."""
        benign = rows["benign"]
        read = rows["harmful"].tokens + benign.tokens
        if self.refusal_weight:
            read += rows["refusal"].tokens
        if self.kl_weight:
            told = benign.said if self.kl_tokens == "response" else benign.tokens
            return Effort((1 + TRAINED) * read, (1 + TRAINED) * told)
        last = max(map(max, self._numbers(of.depth)))
        return Effort((1 + TRAINED) * read * last / of.depth)

    def diagnostic(self, run: Run, state: Start | None) -> dict[str, float]:
        """Measure the margins on held-out rows, at response tokens, mean over each one's layers.

        `harmful_margin` = d(h'_h, h_h) - d(h'_h, c), which rises: the harmful states have left
        their old place and gathered; `harmful_moved` and `harmful_spread` are its two parts.
        `benign_margin` = d(h'_b, c) - d(h_b, h'_b), and `benign_moved` its second part; the same of
        refusals. Empty where the pool has no harmful rows on the defender's selection side or
        nobody kept the start.
        """
        if not run.pool.has(Role.HARMFUL, Side.DEFENDER_SELECTION):
            return {}
        benign, harmful = self._numbers(len(nn.blocks(run.model)))
        layers = sorted({*benign, *harmful})
        roles = [
            role
            for role in (Role.HARMFUL, Role.BENIGN, Role.REFUSAL)
            if run.pool.has(role, Side.DEFENDER_SELECTION)
        ]
        parts = {role: self._held_out(run, role) for role in roles}

        def states(model: PreTrainedModel) -> dict[Role, dict[int, Tensor]]:
            def of(some: list[Tokens]) -> list[Tensor]:
                return nn.response_states(model, some, layers, final_norm=self.final_norm)

            return {role: dict(zip(layers, of(some), strict=True)) for role, some in parts.items()}

        with torch.no_grad():
            new = states(run.model)
            with nn.as_it_started(run.model, state, run.models) as start:
                if start is None:
                    return {}
                old = states(start)
            centres = {k: centre_of(h) for k, h in new[Role.HARMFUL].items()}
            result: dict[str, float] = {}
            for role in roles:
                bad = role is Role.HARMFUL
                own, metrics = (
                    (harmful, self.harmful_metrics) if bad else (benign, self.benign_metrics)
                )
                to_old, to_centre = reversed(metrics) if bad else metrics
                moved = _mean([distance(new[role][k], old[role][k], to_old) for k in own])
                spread = _mean([distance(new[role][k], centres[k], to_centre) for k in own])
                result[f"{role.value}_moved"] = moved
                if bad:
                    result["harmful_spread"] = spread
                result[f"{role.value}_margin"] = moved - spread if bad else spread - moved
        return result

    def _held_out(self, run: Run, role: Role) -> list[Tokens]:
        draw = seed_of(run.seed, "draw")
        rows = run.pool.draw(role, Side.DEFENDER_SELECTION, None, draw)[:HELD_OUT]
        return [run.encoder.batch(rows[i : i + PART]) for i in range(0, len(rows), PART)]


def _mean(layers: list[Tensor]) -> float:
    """Give the mean over layers of each one's mean over tokens."""
    return sum(float(each.mean()) for each in layers) / len(layers)


def _answered(tokens: Tokens) -> int:
    """Count response tokens."""
    return sum(len(row.ids) - row.start for row in tokens.rows)
