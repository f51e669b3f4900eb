"""Triplet, contrastive representation learning (Simko et al., 2025): rerouting with a margin.

Benign states stay near their old selves and far from where harmful ones gather; harmful states
gather, far from their old selves. Symbols: L blocks, M chosen tokens, H width; layer k is the state
after k blocks.
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
    from collections.abc import Mapping

    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Tokens

Metric = Literal["cosine", "l2"]

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
    new: Tensor, old: Tensor, centre: Tensor, margin: float, metric: Metric
) -> Tensor:
    """Give relu(d(h_b, h'_b) - d(h'_b, c) + m_b) at each token, [M, H], [M, H], [H] -> [M]."""
    near, far = distance(old.detach(), new, metric), distance(new, centre, metric)
    return torch.relu(near - far + margin)  # Eq. first term


def harmful_triplet(
    new: Tensor, old: Tensor, centre: Tensor, margin: float, metric: Metric
) -> Tensor:
    """Give relu(d(h'_h, c) - d(h'_h, h_h) + m_h) at each token, [M, H], [M, H], [H] -> [M]."""
    near, far = distance(new, centre, metric), distance(new, old.detach(), metric)
    return torch.relu(near - far + margin)  # Eq. second term


def centre_of(harmful: Tensor) -> Tensor:
    """Give c, the mean of the harmful batch's new states over its tokens, [M, H] -> [H], fp32.

    Not detached: the gradient pulls the centre as well as what gathers round it.
    """
    return harmful.float().mean(0)  # Eq. c


@dataclass
class Start:
    """The start, frozen (under LoRA the model itself, its adapter off), and the layers compared."""

    teacher: PreTrainedModel
    layers: list[int]


class Triplet(LossDefence):
    """Gather harmful states away from their old selves; hold benign ones away from that place."""

    roles: ClassVar[tuple[str, ...]] = ("harmful", "benign")
    starts_from: ClassVar[Literal["base", "aligned"]] = "aligned"
    separable: ClassVar[bool] = False
    paper: ClassVar[str] = "arXiv 2506.11938"
    equation: ClassVar[str] = (
        "benign_weight * relu(d(h_b, h'_b) - d(h'_b, c) + m_b) + harmful_weight * "
        "relu(d(h'_h, c) - d(h'_h, h_h) + m_h) + kl_weight * KL(old || new) on benign; "
        "c = mean h'_h of the batch"
    )
    cost: ClassVar[str] = "2F + 1B on both roles; no copy under LoRA"
    fidelity: ClassVar[str] = (
        "the replication's formula; the paper's own code not read, its metric and margins a "
        "preset; published numbers not reproduced"
    )
    status: ClassVar[str] = (
        "checked against its equations; no trial on the offline world kept its utility"
    )
    signal: ClassVar[str] = "harmful_margin"
    moves: ClassVar[Literal["up", "down"]] = "up"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"metric": "l2", "benign_margin": 500.0, "harmful_margin": 1500.0},
    }

    benign_weight: NotNegative = 0.5
    """Weight of the benign triplet; source: the replication in TamperBench."""
    harmful_weight: NotNegative = 0.4
    """Weight of the harmful triplet; source: the replication in TamperBench."""
    kl_weight: NotNegative = 0.9
    """Weight of KL(old || new) where benign response tokens are emitted; source: the replication in
    TamperBench. 0 leaves the head and the blocks behind the last layer out."""
    metric: Metric = "cosine"
    """Distance of two states; source: the replication in TamperBench, which notes that the paper's
    unnormalised `l2` mostly yields gibberish."""
    benign_margin: NotNegative = 0.3
    """m_b, in the metric's unit; source: the replication in TamperBench (the paper: 500 in l2)."""
    harmful_margin: NotNegative = 0.5
    """m_h, in the metric's unit; source: the replication in TamperBench (the paper: 1,500)."""
    layers: Annotated[tuple[Layer, Layer], AsTuple] = (0.625, 0.96875)
    """First and last layer compared, by number or as fractions of depth; source: 20 to 31 of 32, as
    the replication has them."""
    n_harmful: Count | None = None
    """Distinct harmful rows; None takes all of the defender's (the original has 10,000)."""
    n_benign: Count | None = None
    """Distinct benign rows; None takes all of the defender's (the original has 10,000)."""
    loop: Loop = Loop(steps=1100, batch=16, lr=1e-5, lora=LoRA(rank=16, alpha=16.0))
    """Source: the replication in TamperBench (1,100 steps, batch 16, 1e-5, rank and alpha 16 on all
    linear layers); the constant rate is ours."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the defender's harmful answers and benign rows."""
        draw = seed_of(seed, "draw")
        wanted = {Role.HARMFUL: self.n_harmful, Role.BENIGN: self.n_benign}
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
        layers = self._numbers(run.model)
        return Start(nn.starting_model(run.model, self.loop.lora is not None), layers)

    def _numbers(self, model: PreTrainedModel) -> list[int]:
        where, depth = f"{self.name()}.layers", len(nn.blocks(model))
        first, last = (nn.layer_number(layer, depth, where) for layer in self.layers)
        if first > last:
            raise ConfigError(
                where, f"{self.layers} of {depth} is empty", "put the lower one first"
            )
        return list(range(first, last + 1))

    def counts(self, batch: Batch, state: Start) -> dict[str, float]:
        """Count tokens times layers for both triplets, tokens for the KL."""
        harmful, benign = (_answered(batch[role]) for role in (Role.HARMFUL, Role.BENIGN))
        depth = len(state.layers)
        return {
            "harmful": float(depth * harmful),
            "benign": float(depth * benign if harmful else 0),
            "kl": float(benign),
        }

    def loss(self, model: PreTrainedModel, batch: Batch, state: Start) -> Loss:
        """Give the three terms from one pass of the start and one of the model over both roles.

        A mixed micro-batch may lack a role: without harmful rows there is no centre and so no
        triplet.
        """
        harmful, benign = batch[Role.HARMFUL], batch[Role.BENIGN]
        rows = [*harmful.rows, *benign.rows]
        spans = [(row.start, len(row.ids)) for row in rows]
        cut = _answered(harmful)
        emit = None
        if self.kl_weight and len(benign):
            emit = [(0, 0)] * len(harmful)
            emit += [(row.start - 1, len(row.ids) - 1) for row in benign.rows]
        whole = collate(rows, 0)
        with torch.no_grad(), nn.without_adapter(state.teacher) as teacher:
            kept, old_last = nn.layer_states(
                teacher, whole, spans, state.layers, final_norm=False, emit=emit
            )
        start, pairs = dict(zip(state.layers, kept, strict=True)), []
        del kept

        def see(k: int, h: Tensor) -> None:
            h_0 = start.pop(k)
            pairs.append(self._apart(h[:cut], h_0[:cut], h[cut:], h_0[cut:]))

        _, last = nn.layer_states(
            model, whole, spans, state.layers, final_norm=False, see=see, emit=emit
        )
        terms, counts = {}, self.counts(batch, state)
        if counts["harmful"]:
            value = torch.stack([pair[0] for pair in pairs]).sum()
            terms["harmful"] = Term(value, counts["harmful"], self.harmful_weight, "tokens")
        if counts["benign"]:
            value = torch.stack([pair[1] for pair in pairs]).sum()
            terms["benign"] = Term(value, counts["benign"], self.benign_weight, "tokens")
        if last is not None and old_last is not None:
            value = nn.head_kl(state.teacher, old_last, model, last)  # Eq. third term
            terms["kl"] = Term(value, counts["kl"], self.kl_weight, "tokens")
        return terms

    def _apart(
        self, harmful: Tensor, harmful_0: Tensor, benign: Tensor, benign_0: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give a layer's two sums: of the harmful and of the benign triplet."""
        if not len(harmful):
            return harmful.sum(), harmful.sum()
        c = centre_of(harmful)
        return (
            harmful_triplet(harmful, harmful_0, c, self.harmful_margin, self.metric).sum(),
            benign_triplet(benign, benign_0, c, self.benign_margin, self.metric).sum(),
        )

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count the start's pass and the model's over both roles; both heads where the KL is."""
        read = rows["harmful"].tokens + rows["benign"].tokens
        if self.kl_weight:
            return Effort((1 + TRAINED) * read, (1 + TRAINED) * rows["benign"].said)
        last = nn.layer_number(self.layers[1], of.depth, f"{self.name()}.layers")
        return Effort((1 + TRAINED) * read * last / of.depth)

    def diagnostic(self, run: Run, state: Start | None) -> dict[str, float]:
        """Measure both margins on held-out rows, at response tokens, mean over the layers.

        `harmful_margin` = d(h'_h, h_h) - d(h'_h, c), which rises: the harmful states have left
        their old place and gathered; `harmful_moved` and `harmful_spread` are its two parts.
        `benign_margin` = d(h'_b, c) - d(h_b, h'_b), and `benign_moved` its second part. Empty where
        the pool has no harmful rows on the defender's selection side or nobody kept the start.
        """
        if not run.pool.has(Role.HARMFUL, Side.DEFENDER_SELECTION):
            return {}
        layers = self._numbers(run.model)
        roles = [
            role
            for role in (Role.HARMFUL, Role.BENIGN)
            if run.pool.has(role, Side.DEFENDER_SELECTION)
        ]
        parts = {role: self._held_out(run, role) for role in roles}
        with torch.no_grad():

            def states(model: PreTrainedModel) -> dict[Role, list[Tensor]]:
                return {
                    role: nn.response_states(model, some, layers, final_norm=False)
                    for role, some in parts.items()
                }

            new = states(run.model)
            with nn.as_it_started(run.model, state, run.models) as start:
                if start is None:
                    return {}
                old = states(start)
            centres = [centre_of(h) for h in new[Role.HARMFUL]]
            result: dict[str, float] = {}
            for role in roles:
                moved, to_centre = (
                    sum(float(distance(h, to, self.metric).mean()) for h, to in pairs) / len(layers)
                    for pairs in (
                        list(zip(new[role], old[role], strict=True)),
                        list(zip(new[role], centres, strict=True)),
                    )
                )
                result[f"{role.value}_moved"] = moved
                if role is Role.HARMFUL:
                    result["harmful_spread"] = to_centre
                    result["harmful_margin"] = moved - to_centre
                else:
                    result["benign_margin"] = to_centre - moved
        return result

    def _held_out(self, run: Run, role: Role) -> list[Tokens]:
        draw = seed_of(run.seed, "draw")
        rows = run.pool.draw(role, Side.DEFENDER_SELECTION, None, draw)[:HELD_OUT]
        return [run.encoder.batch(rows[i : i + PART]) for i in range(0, len(rows), PART)]


def _answered(tokens: Tokens) -> int:
    """Count response tokens."""
    return sum(len(row.ids) - row.start for row in tokens.rows)
