"""Circuit breakers (Zou et al., NeurIPS 2024): turn states on harmful text from where they were.

States on harmful text are turned until they are orthogonal to what they were; states on benign text
stay where they were. Symbols: L blocks, M chosen tokens, H width; layer k is the state after k
blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

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
    Share,
    Term,
)
from holdfast.api import seed as seed_of
from holdfast.api.fields import LATER, AsTuple
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.data.tokens import collate
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Row, Tokens

Which = Literal["response", "all"]

HELD_OUT = 96
"""Most held-out rows of a role the diagnostics look at."""
PART = 16
"""Held-out rows in one pass of the diagnostics."""


def cosine(new: Tensor, old: Tensor) -> Tensor:
    """Give the cosine of two states at each token, [M, H], [M, H] -> [M], in fp32; old constant."""
    a, b = new.float(), old.detach().float()
    lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return (a * b).sum(-1) / lengths.clamp(min=1e-12)


def rerouting(new: Tensor, old: Tensor) -> Tensor:
    """Give relu(cos(h_new, h_old)) at each token, [M, H], [M, H] -> [M]; 0 from a right angle on.

    Where both states are equal the gradient is exactly 0: see `turned`.
    """
    return torch.relu(cosine(new, old))  # Eq. L_s


def turned(old: Tensor, direction: Tensor, angle: float) -> Tensor:
    """Give h_old + angle |h_old| d, [M, H], d [H] of length 1 -> [M, H], in fp32.

    The cosine to h_old is largest at h_old itself, so that training could never leave its start;
    a turned reference says which way to go.
    """
    h = old.detach().float()
    return h + angle * torch.linalg.vector_norm(h, dim=-1, keepdim=True) * direction


def retention(new: Tensor, old: Tensor) -> Tensor:
    """Give |h_new - h_old|_2, not squared, at each token, [M, H], [M, H] -> [M], in fp32.

    Value and gradient are 0 where both are equal.
    """
    return torch.linalg.vector_norm(new.float() - old.detach().float(), dim=-1)  # Eq. L_r


def coefficients(step: int, steps: int, alpha: float, floor: float = 0.0) -> tuple[float, float]:
    """Give (c_s, c_r) = alpha (1 - p, max(p, floor)) with p = step / (2 steps).

    The weights of rerouting and retention: from (alpha, 0) towards (alpha / 2, alpha / 2).
    """
    p = step / (2 * steps)  # Eq. the schedule
    return alpha * (1 - p), alpha * max(p, floor)


@dataclass
class Rerouted:
    """What the run compares with: the start (under LoRA the model itself, its adapter off), the
    rerouted layers with the direction [H] each is turned to, and the coefficients of this step.
    """

    teacher: PreTrainedModel
    layers: list[int]
    retained: list[int]
    directions: dict[int, Tensor]
    c_s: float
    c_r: float


class CircuitBreakers(LossDefence):
    """Turn harmful states away from where they were; keep benign ones and refusals in place."""

    roles: ClassVar[tuple[str, ...]] = ("harmful", "benign", "refusal")
    starts_from: ClassVar[Literal["base", "aligned"]] = "aligned"
    paper: ClassVar[str] = "arXiv 2406.04313"
    equation: ClassVar[str] = (
        "c_s(t) * mean relu(cos(h, h_0)) on harmful + c_r(t) * mean |h - h_0|_2 on retained; "
        "c_s = alpha (1 - t/2T), c_r = alpha t/2T"
    )
    cost: ClassVar[str] = (
        "2F + 1B on retained rows, the same on harmful rows up to the last layer; no head; "
        "no copy under LoRA"
    )
    fidelity: ClassVar[str] = (
        "paper read, released settings from public derivatives; a small turn of the "
        "reference gives the start a gradient (ours); published numbers not reproduced"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"
    signal: ClassVar[str] = "cosine_harmful"
    moves: ClassVar[Literal["up", "down"]] = "down"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "released": {"reroute_tokens": "all", "turn": 0.0, "first_step": 1},
    }

    alpha: Positive = 10.0
    """Weight of the whole; source: the released launch scripts (10 for Llama-3-8B-Instruct, 5 for
    Mistral-7B)."""
    layers: Annotated[tuple[Layer, ...], AsTuple] = (0.3125, 0.625)
    """Rerouted layers, by number or as fractions of depth; source: the released scripts' 10 and 20
    of 32."""
    retained_layers: Annotated[tuple[Layer, ...] | None, AsTuple] = None
    """Layers in which retained rows are held; None takes all, as the released code does."""
    floor: Share = 0.0
    """Least c_r / alpha; source: the paper's schedule, which starts at 0. Ours to raise where a
    small model falls apart in the first steps, as one public log shows."""
    first_step: Annotated[Literal[0, 1], Field(json_schema_extra=LATER)] = 0
    """Number of the first step in the schedule; source: the paper's formula, whose c_r starts at 0.
    1: the public derivatives of the trainer, which count a step before they read the schedule, so
    that c_r starts at alpha / 2T."""
    turn: NotNegative = 0.01
    """Angle in radians by which the harmful reference is turned at each layer, in a direction drawn
    once; ours, because at the start the cosine has no gradient: the original leaves its start by
    rounding noise, which differs between machines. 0 is the original."""
    reroute_tokens: Which = "response"
    """Tokens of harmful rows that are rerouted; ours: the template's first tokens are the same in
    retained rows, so `all` (the released masks, from memory) asks them to move and to stay."""
    retain_tokens: Which = "all"
    """Tokens of retained rows that are held; source: the released code (the attention mask)."""
    refusal_weight: NotNegative = 1.0
    """Weight of a refusal's token beside a benign one's in the mean of the retained; source: the
    released scripts keep refusals for Llama-3; their share is ours. 0 leaves them out."""
    n_harmful: Count | None = None
    """Distinct harmful rows; None takes all of the defender's."""
    n_benign: Count | None = None
    """Distinct benign rows; None takes all of the defender's."""
    n_refusal: Count | None = None
    """Distinct refusals; None takes all of the defender's."""
    loop: Loop = Loop(steps=150, batch=16, lr=1e-4, lora=LoRA(rank=16, alpha=16.0, through=0.625))
    """Source: the released scripts (150 steps, batch 16, 1e-4, rank and alpha 16, blocks up to the
    last rerouted layer); constant rate and all linear layers from memory, unverified."""

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

    def setup(self, run: Run) -> Rerouted:
        """Check the layers, draw the directions and keep the start.

        Raises:
            ConfigError: no layer, or one beyond the model's depth.
        """
        depth = len(nn.blocks(run.model))
        layers = self._numbers(self.layers, depth, "layers")
        every = tuple(range(1, depth + 1))
        retained = self._numbers(self.retained_layers or every, depth, "retained_layers")
        width = nn.embedding_width(run.model)
        generator = torch.Generator().manual_seed(seed_of(run.seed, "noise", "turn"))
        drawn = torch.randn(len(layers), width, generator=generator)
        drawn = drawn / torch.linalg.vector_norm(drawn, dim=-1, keepdim=True)
        directions = dict(zip(layers, drawn, strict=True))
        teacher = nn.starting_model(run.model, self.loop.lora is not None)
        c_s, c_r = coefficients(self.first_step, self.loop.steps, self.alpha, self.floor)
        return Rerouted(teacher, layers, retained, directions, c_s, c_r)

    def _numbers(self, layers: tuple[float, ...], depth: int, name: str) -> list[int]:
        where = f"{self.name()}.{name}"
        if not layers:
            raise ConfigError(where, "no layers", "give at least one")
        return sorted({nn.layer_number(layer, depth, where) for layer in layers})

    def on_step(self, step: int, state: Rerouted) -> None:
        """Set this step's coefficients."""
        at = self.first_step + step
        state.c_s, state.c_r = coefficients(at, self.loop.steps, self.alpha, self.floor)

    def counts(self, batch: Batch, state: Rerouted) -> dict[str, float]:
        """Count tokens times layers, refusals by their weight."""
        held = self._held(batch)
        return {
            "reroute": float(_size(batch[Role.HARMFUL], self.reroute_tokens) * len(state.layers)),
            "retain": sum(w * _size(t, self.retain_tokens) for t, w in held) * len(state.retained),
        }

    def _held(self, batch: Batch) -> list[tuple[Tokens, float]]:
        """Give the retained rows and their weights."""
        held = ((batch[Role.BENIGN], 1.0), (batch[Role.REFUSAL], self.refusal_weight))
        return [(tokens, weight) for tokens, weight in held if weight and len(tokens)]

    def loss(self, model: PreTrainedModel, batch: Batch, state: Rerouted) -> Loss:
        """Give both terms, each from one pass of the start and one of the model."""
        counts, terms = self.counts(batch, state), {}
        harmful, held = batch[Role.HARMFUL], self._held(batch)
        if len(harmful):
            spans = [_span(row, self.reroute_tokens) for row in harmful.rows]

            def angle(k: int, h: Tensor, h_0: Tensor) -> Tensor:
                if self.turn:
                    h_0 = turned(h_0, state.directions[k].to(h_0.device), self.turn)
                return rerouting(h, h_0).sum()

            value = self._compared(model, state, harmful, spans, state.layers, angle)
            terms["reroute"] = Term(value, counts["reroute"], state.c_s, "tokens")
        if held:
            kept = collate([row for tokens, _ in held for row in tokens.rows], 0)
            spans = [_span(row, self.retain_tokens) for row in kept.rows]
            by_row = torch.tensor([w for tokens, w in held for _ in tokens.rows])
            weight = by_row[nn.owners(spans)].to(next(model.parameters()).device)
            value = self._compared(
                model,
                state,
                kept,
                spans,
                state.retained,
                lambda _k, h, h_0: (weight * retention(h, h_0)).sum(),
            )
            terms["retain"] = Term(value, counts["retain"], state.c_r, "tokens")
        return terms

    def _compared(
        self,
        model: PreTrainedModel,
        state: Rerouted,
        tokens: Tokens,
        spans: list[tuple[int, int]],
        layers: list[int],
        apart: Callable[[int, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Give the sum over layers of `apart(k, h, h_0)`; the start goes first, and each of its
        layers is dropped as soon as the model's has been compared with it.
        """
        with torch.no_grad(), nn.without_adapter(state.teacher) as teacher:
            kept, _ = nn.layer_states(teacher, tokens, spans, layers)
        start, values = dict(zip(layers, kept, strict=True)), []
        del kept
        nn.layer_states(
            model,
            tokens,
            spans,
            layers,
            see=lambda k, h: values.append(apart(k, h, start.pop(k))),
        )
        return torch.stack(values).sum()

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count the start's pass and the model's, up to the last layer that is read; no head."""
        every = tuple(range(1, of.depth + 1))
        rerouted = max(self._numbers(self.layers, of.depth, "layers")) / of.depth
        retained = max(self._numbers(self.retained_layers or every, of.depth, "retained_layers"))
        held = rows["benign"].tokens + (rows["refusal"].tokens if self.refusal_weight else 0.0)
        read = rows["harmful"].tokens * rerouted + held * retained / of.depth
        return Effort((1 + TRAINED) * read)

    def diagnostic(self, run: Run, state: Rerouted | None) -> dict[str, float]:
        """Measure how far states have turned from the start's, on held-out rows.

        `cosine_harmful` (1 at the start, falling), also by layer, and `cosine_benign`, which should
        stay: mean cosine to the start's state over response tokens and rerouted layers.
        `drift_benign`: mean |h - h_0| / |h_0| there. Empty where the pool has no harmful rows on
        the defender's selection side or nobody kept the start.
        """
        depth = len(nn.blocks(run.model))
        layers = self._numbers(self.layers, depth, "layers")
        result: dict[str, float] = {}
        for role in (Role.HARMFUL, Role.BENIGN):
            if not run.pool.has(role, Side.DEFENDER_SELECTION):
                if role is Role.HARMFUL:
                    return {}
                continue
            draw = seed_of(run.seed, "draw")
            rows = run.pool.draw(role, Side.DEFENDER_SELECTION, None, draw)[:HELD_OUT]
            parts = [run.encoder.batch(rows[i : i + PART]) for i in range(0, len(rows), PART)]
            with torch.no_grad():
                new = nn.response_states(run.model, parts, layers)
                with nn.as_it_started(run.model, state, run.models) as start:
                    if start is None:
                        return {}
                    old = nn.response_states(start, parts, layers)
                turns = [float(cosine(h, h_0).mean()) for h, h_0 in zip(new, old, strict=True)]
            result[f"cosine_{role.value}"] = sum(turns) / len(turns)
            if role is Role.HARMFUL:
                for k, value in zip(layers, turns, strict=True):
                    result[f"cosine_harmful_layer_{k:02d}"] = value
            else:
                drifts = [
                    float((retention(h, h_0) / retention(h_0, 0 * h_0).clamp(min=1e-12)).mean())
                    for h, h_0 in zip(new, old, strict=True)
                ]
                result["drift_benign"] = sum(drifts) / len(drifts)
        return result


def _span(row: Row, which: Which) -> tuple[int, int]:
    """Give a row's first chosen token and the one behind the last; BOS is no word."""
    return (row.start if which == "response" else int(row.bos), len(row.ids))


def _size(tokens: Tokens, which: Which) -> int:
    """Count the chosen tokens."""
    return sum(b - a for a, b in (_span(row, which) for row in tokens.rows))
