"""RepNoise (Rosati et al., NeurIPS 2024): leave nothing of harmful text at any depth but noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from holdfast import nn
from holdfast.api import (
    TRAINED,
    Batch,
    Blocks,
    Count,
    Effort,
    Loop,
    Loss,
    LossDefence,
    NotNegative,
    Rows,
    Run,
    Term,
    passed,
)
from holdfast.api import seed as seed_of
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.data.tokens import Packed, Row
from holdfast.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool

Mask = Literal["response", "difference"]
Lens = Literal["blocks", "all"]
Align = Literal["answer", "row"]

HELD_OUT = 64
"""Most held-out rows the diagnostic reads."""
PART = 8
"""Rows compared with noise together in the diagnostic; the estimate's bias hangs on it."""


def chosen(harmful: Row, refusal: Row, mask: Mask) -> tuple[list[int], list[int]]:
    """Give the indices of a pair's masked tokens, in the harmful row and in the refusal's.

    `response`: every answer token. `difference`: answer tokens at which the other answer has
    another token or none; padding is never one.
    """
    pair = (harmful, refusal)
    if mask == "response":
        first, second = (list(range(row.start, len(row.ids))) for row in pair)
        return first, second
    same = {
        i
        for i in range(harmful.start, min(len(harmful.ids), len(refusal.ids)))
        if harmful.ids[i] == refusal.ids[i]
    }
    first, second = ([i for i in range(r.start, len(r.ids)) if i not in same] for r in pair)
    return first, second


def ascent(summed: Tensor, tokens: int, heads: int) -> Tensor:
    """Give log(1 + (1 / heads) sum over heads of the mean cross-entropy over tokens), [] -> [].

    The logarithm's slope 1 / (1 + x) keeps a term without an upper bound from running away.
    """
    return torch.log1p(summed / (heads * max(tokens, 1)))  # Eq. A


@dataclass
class RepNoiseState:
    """The refusal of each harmful row (by its ids), the study's seed, and the step it is at."""

    partner: dict[tuple[int, ...], Row] = field(default_factory=dict)
    seed: int = 0
    step: int = 0


@dataclass
class Places:
    """Where a pass's masked tokens stand: flat indices, their ids, their slot of R x W."""

    harmful: Tensor
    harmful_labels: Tensor
    refusal: Tensor
    refusal_labels: Tensor
    slot: Tensor
    width: int


@dataclass
class Seen:
    """What a pass gave: the last states [N, H] after the norm, each layer's distance to noise, the
    heads' cross-entropy summed over heads and tokens, and how many heads it is divided by.
    """

    at: Places
    last: Tensor
    distances: list[Tensor]
    summed: Tensor | None = None
    heads: int = 1


class RepNoise(LossDefence):
    """CE(refusal) + noise x mean_l MMD^2(MLP_l, N(0, I)) - ascent x log(1 + mean_l CE_l(harm))."""

    roles: ClassVar[tuple[str, ...]] = ("refusal", "harmful")
    paper: ClassVar[str] = "arXiv 2405.14577"
    equation: ClassVar[str] = (
        "CE(D_ref) + noise_weight * mean_l MMD^2(a_l, z_l) "
        "- ascent_weight * log(1 + mean_l CE(head(norm(h_l)), D_harm))"
    )
    cost: ClassVar[str] = "2F + 2B; the head once a layer on masked harmful tokens"
    fidelity: ClassVar[str] = (
        "equations known through the released loss, whose training script was never "
        "released; masks, noise and lens mended; published numbers not reproduced"
    )
    status: ClassVar[str] = (
        "checked against its equations; no trial on the offline world kept its utility"
    )
    separable: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any]] = {"noise_weight": 0.0, "ascent_weight": 0.0}
    plain: ClassVar[dict[str, float]] = {"refusal": 1.0}
    signal: ClassVar[str] = "noise_distance"
    moves: ClassVar[Literal["up", "down"]] = "down"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"mask": "difference"},
        "released": {
            "mask": "difference",
            "lens": "all",
            "places": "row",
            "loop": {
                "steps": 250,
                "lr": 1e-4,
                "warmup": 25,
                "weight_decay": 0.01,
                "clip": None,
                "precision": "bf16_pure",
            },
        },
    }

    noise_weight: NotNegative = 0.001
    """Weight of the distance to noise; source: the released loss (its beta)."""
    ascent_weight: NotNegative = 1.0
    """Weight of the ascent on harmful answers; source: the released loss (its alpha)."""
    retain_weight: NotNegative = 1.0
    """Weight of the refusals' cross-entropy; source: the released loss, which has none, i.e. 1."""
    mask: Mask = "response"
    """Which tokens count: all of the answer, or those at which the pair's answers differ; ours,
    because a token both answers happen to share is no less part of a harmful answer. The paper and
    its code: `difference`."""
    lens: Lens = "blocks"
    """What the head reads: the output of each block through the final norm, once, the last being
    the model's own answer (L terms over L); ours, because it is what the sum says. `all`: the
    embeddings too, and the final state twice, once normed again (L + 2 terms over L + 1); source:
    the released loss."""
    places: Align = "answer"
    """Which tokens of two rows are compared: the k-th of both answers, or of both rows; ours,
    because prompts differ in length. The released code: `row`."""
    n: Count | None = None
    """Distinct prompts, each with a refusal and a harmful answer; None takes all."""
    loop: Loop = Loop(steps=2500, batch=4, lr=2e-5, schedule="cosine", warmup=250)
    """Source: the paper from memory, unverified (10,000 pairs once, 2e-5); batch 4, cosine and 10 %
    warm-up from the released demo; no decay and clipping at 1 are ours (the demo: 0.01, none). Its
    authors say weights and rate need a search each time."""

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw prompts that have both answers; the pair must begin alike.

        Raises:
            ConfigError: batches that tear pairs apart, or compiled blocks.
            DataError: too few prompts with both answers.
        """
        if self.loop.batching == "mixed":
            raise ConfigError(
                f"{self.name()}.loop.batching",
                "mixed, but a batch is made of pairs",
                "use batching: stratified",
            )
        if self.loop.compile_layers:
            raise ConfigError(
                f"{self.name()}.loop.compile_layers",
                "compiled blocks hide the MLP outputs it reads",
                "leave it off",
            )
        pairs = self._pairs(pool, Side.DEFENDER, self.n, seed)
        return {
            Role.REFUSAL: [refusal for refusal, _ in pairs],
            Role.HARMFUL: [harmful for _, harmful in pairs],
        }

    def _pairs(
        self, pool: Pool, side: Side, n: int | None, seed: int
    ) -> list[tuple[Example, Example]]:
        return pool.paired(Role.REFUSAL, Role.HARMFUL, side, n, seed_of(seed, "draw"))

    def setup(self, run: Run) -> RepNoiseState:
        """Note each harmful row's refusal, so that a batch is made of pairs in whatever order.

        Raises:
            DataError: a pair's prompts are encoded differently.
        """
        state = RepNoiseState(seed=run.seed)
        for refusal, harmful in self._pairs(run.pool, Side.DEFENDER, self.n, run.seed):
            r, h = run.encoder.row(refusal), run.encoder.row(harmful)
            if r.ids[: r.start] != h.ids[: h.start]:
                # One prompt by its hash, two by its letters: case or white space.
                r = run.encoder.row(replace(harmful, response=refusal.response))
            state.partner[h.ids] = r
        return state

    def on_step(self, step: int, state: RepNoiseState) -> None:
        """Have every step draw its own noise."""
        state.step = step

    def _refusals(self, batch: Batch, state: RepNoiseState) -> list[Row]:
        """Give the refusal of each harmful row of a batch."""
        missing = [row for row in batch[Role.HARMFUL].rows if row.ids not in state.partner]
        if missing:
            raise DataError(
                f"{self.name()}: {len(missing)} harmful rows of a batch",
                "no refusal of the same prompt",
                "give both responses for the same prompts",
            )
        return [state.partner[row.ids] for row in batch[Role.HARMFUL].rows]

    def counts(self, batch: Batch, state: RepNoiseState) -> dict[str, float]:
        """Count the refusals' masked tokens, and harmful rows for the other two."""
        harmful, refusals = batch[Role.HARMFUL].rows, self._refusals(batch, state)
        found = {
            "retain": float(
                sum(len(self._mask(h, r)[1]) for h, r in zip(harmful, refusals, strict=True))
            )
        }
        if self.noise_weight > 0:
            found["noise"] = float(len(harmful))
        if self.ascent_weight > 0:
            found["ascent"] = float(len(harmful))
        return found

    def _mask(self, harmful: Row, refusal: Row) -> tuple[list[int], list[int]]:
        return chosen(harmful, refusal, self.mask)

    def loss(self, model: PreTrainedModel, batch: Batch, state: RepNoiseState) -> Loss:
        """Give the three terms from one pass over pairs.

        Distance and ascent are taken over a micro-batch and weighed by its rows.
        """
        harmful, refusals = list(batch[Role.HARMFUL].rows), self._refusals(batch, state)
        masks = [self._mask(h, r) for h, r in zip(harmful, refusals, strict=True)]
        noise, lens = self.noise_weight > 0, self.lens if self.ascent_weight > 0 else None
        cut = len(harmful) if noise or lens else 0
        wide = [*harmful[:cut], *refusals]
        where = [*(m for m, _ in masks[:cut]), *(m for _, m in masks)]
        words = [i for row in harmful for i in row.ids]
        drawn = seed_of(state.seed, "noise", state.step, *words)
        seen = look(model, wide, where, cut, drawn, noise=noise, lens=lens, places=self.places)
        terms: Loss = {"retain": self._retain(model, seen)}
        rows = float(cut)
        if noise:
            distance = torch.stack(seen.distances).mean()  # Eq. N
            terms["noise"] = Term(distance * rows, rows, self.noise_weight, "rows")
        if seen.summed is not None:
            up = ascent(seen.summed, len(seen.at.harmful), seen.heads)
            terms["ascent"] = Term(up * rows, rows, -self.ascent_weight, "rows")
        return terms

    def _retain(self, model: PreTrainedModel, seen: Seen) -> Term:
        """Give the refusals' cross-entropy at their masked tokens."""
        at = seen.at
        value = nn.head_nll(model, seen.last.index_select(0, at.refusal - 1), at.refusal_labels)
        return Term(value, float(len(at.refusal)), self.retain_weight, "tokens")

    def effort(self, rows: Mapping[str, Rows], of: Blocks) -> Effort:
        """Count a pass of pairs, and the head once a layer at harmful answers; of a mask that
        leaves tokens out, as if it left none.
        """
        harmful = rows["harmful"]
        refusals = replace(rows["refusal"], number=harmful.number)
        found = passed(refusals)
        if self.noise_weight > 0 or self.ascent_weight > 0:
            found += Effort(TRAINED * harmful.tokens)
        if self.ascent_weight > 0:
            heads = of.depth + (2 if self.lens == "all" else 0)
            found += Effort(0.0, TRAINED * harmful.said * heads)
        return found

    def diagnostic(self, run: Run, state: object) -> dict[str, float]:
        """Measure `noise_distance`, mean_l MMD^2 of the MLP outputs at held-out harmful answers.

        RepNoise lowers it. Also `lens_loss`, the layers' mean cross-entropy of those answers in
        nats a token, and `harm_loss`, the model's own. Read from the model alone, every answer
        token, noise fixed by the seed, 8 rows at a time. Empty where the pool has no harmful rows
        on the defender's selection side.
        """
        if not run.pool.has(Role.HARMFUL, Side.DEFENDER_SELECTION):
            return {}
        draw = seed_of(run.seed, "draw")
        some = run.pool.draw(Role.HARMFUL, Side.DEFENDER_SELECTION, None, draw)[:HELD_OUT]
        rows = run.encoder.batch(some).rows
        whole = len(rows) // PART * PART or len(rows)  # a smaller part has another bias
        distances: list[Tensor] = []
        lens = harm = tokens = 0.0
        with torch.no_grad():
            for first in range(0, whole, PART):
                part = list(rows[first : first + PART])
                masks = [list(range(row.start, len(row.ids))) for row in part]
                drawn = seed_of(run.seed, "noise", "diagnostic", first)
                seen = look(run.model, part, masks, len(part), drawn, noise=True, lens="blocks")
                at = seen.at
                own = seen.last.index_select(0, at.harmful - 1)
                distances.append(torch.stack(seen.distances).mean())
                if seen.summed is not None:
                    lens += float(seen.summed) / seen.heads
                harm += float(nn.head_nll(run.model, own, at.harmful_labels))
                tokens += len(at.harmful)
        return {
            "noise_distance": float(torch.stack(distances).mean()),
            "lens_loss": lens / tokens,
            "harm_loss": harm / tokens,
        }


def places_of(
    rows: Sequence[Row],
    masks: Sequence[list[int]],
    cut: int,
    starts: Sequence[int],
    by: Align,
    device: torch.device,
) -> Places:
    """Find the masked tokens of a pass whose first `cut` rows are harmful, the others refusals.

    `starts` says where each row begins in the pass; `by` what a slot counts from.
    """
    flat = [[start + i for i in mask] for start, mask in zip(starts, masks, strict=True)]
    labels = [[row.ids[i] for i in mask] for row, mask in zip(rows, masks, strict=True)]
    slots = [
        [i - (row.start if by == "answer" else 0) for i in mask]
        for row, mask in zip(rows[:cut], masks[:cut], strict=True)
    ]
    width = max((i + 1 for some in slots for i in some), default=1)

    def joined(parts: list[list[int]]) -> Tensor:
        return torch.tensor([i for part in parts for i in part], dtype=torch.long, device=device)

    return Places(
        joined(flat[:cut]),
        joined(labels[:cut]),
        joined(flat[cut:]),
        joined(labels[cut:]),
        joined([[number * width + i for i in some] for number, some in enumerate(slots)]),
        width,
    )


def look(
    model: PreTrainedModel,
    rows: Sequence[Row],
    masks: Sequence[list[int]],
    cut: int,
    seed: int,
    *,
    noise: bool,
    lens: Lens | None,
    places: Align = "answer",
) -> Seen:
    """Run one pass over rows, the first `cut` of them harmful, and take its insides on the way.

    Args:
        masks: each row's masked tokens.
        seed: of the noise's draws.
        noise: whether distances are taken.
        lens: which states the head reads; None reads none.
        places: what the slots of a row count from.
    """
    from holdfast.defences.rep_noise.inside import inside
    from holdfast.defences.rep_noise.noise import noise_distance

    device = next(model.parameters()).device
    tokens = nn.batch_for(model, rows)
    packed = isinstance(tokens, Packed)
    starts = tokens.starts if packed else [tokens.ids.shape[1] * i for i in range(len(rows))]
    at = places_of(rows, masks, cut, starts, places, device)
    draws = torch.Generator(device).manual_seed(seed)
    depth = len(nn.blocks(model))
    distances: list[Tensor] = []
    raw: list[Tensor] = []

    def see(number: int, a: Tensor, h: Tensor) -> None:
        if noise and number >= 0:
            a = a.index_select(0, at.harmful)
            z = torch.randn(a.shape, generator=draws, device=device)
            distances.append(noise_distance(a, z, at.slot, cut, at.width))
        if lens is not None and number < depth - 1:
            raw.append(h.index_select(0, at.harmful - 1))  # what emits the masked token

    last = inside(model, tokens, see, embeddings=lens == "all")
    if lens is None:
        return Seen(at, last, distances)
    own = last.index_select(0, at.harmful - 1)
    if lens == "all":
        raw.append(own)
    states = [nn.final_norm(model)(torch.cat(raw)), own] if raw else [own]
    read = depth + 2 if lens == "all" else depth
    summed = nn.head_nll(model, torch.cat(states), at.harmful_labels.repeat(read))
    return Seen(at, last, distances, summed, depth + 1 if lens == "all" else depth)
