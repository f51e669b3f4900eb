"""What SGT did, measured on held-out prompts of the defender.

Shares of prompts whose greedy answer opens as one of the refusals: `trigger_refusal_rate` (base,
with the trigger), `..._noise` (the trigger disturbed as in stage 1), `..._benign` (on benign
prompts; the base refusing them too is what repulsion is for), and without a trigger
`base_refusal_rate`, `refusal_rate`, `refusal_rate_benign`.
Relative squared distances: `anchor_error` to the teacher's triggered states, beside its value
before training and by layer; `drift`, `drift_benign` to the base's plain states. `teacher_spread`:
how much the triggered states vary over prompts; near 0 the trigger says one thing whatever is
asked. Linear CKA over prompts, where the answer begins: `cka_teacher`, `cka_base`.

Symbols: L blocks, B rows, T tokens, H width.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast import nn
from holdfast.api import seed as seed_of
from holdfast.data.example import Role, Side
from holdfast.data.tokens import IGNORE, Positions, Row, Tokens, collate
from holdfast.defences.sgt.fields import Reduce

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.api import Run
    from holdfast.defences.sgt import SGT, SGTState
    from holdfast.nn.states import Place

States = list[Tensor]
"""Each block's states of one batch, L tensors [B, T, H]."""

OPENING = 4
"""Tokens of an answer that say whether it is one of the known refusals."""
PART = 16
"""Held-out rows in one pass."""
HELD_OUT = 96
"""Most held-out rows of a role that are looked at where `ending` names no number: a share of them
is good to 0.05."""


def measured(method: SGT, run: Run, state: SGTState | None) -> dict[str, float]:
    """Give the diagnostics of a run's model.

    Empty where the pool has no refusals on the defender's selection side, and, without a state,
    where `run.models` has no `kept` trigger or no `start`. Benign values are left out where there
    are no benign rows on that side.
    """
    if not run.pool.has(Role.REFUSAL, Side.DEFENDER_SELECTION):
        return {}
    teacher = None if state is None else state.teacher
    if state is not None:
        phi = state.trigger
    elif "trigger" in run.models.get("kept", {}) and "start" in run.models:
        phi = run.models["kept"]["trigger"].to(next(run.model.parameters()).device)
    else:
        return {}
    most = HELD_OUT if method.ending is None else method.ending.rows
    result = _on_harmful(Held(method, run, phi, teacher, Role.REFUSAL, most))
    if run.pool.has(Role.BENIGN, Side.DEFENDER_SELECTION):
        result |= _on_benign(Held(method, run, phi, teacher, Role.BENIGN, most))
    return result


class Held:
    """The held-out rows of a role, in parts, and what is asked of a model on them."""

    def __init__(
        self,
        method: SGT,
        run: Run,
        phi: Tensor,
        teacher: PreTrainedModel | None,
        role: Role,
        most: int = HELD_OUT,
    ) -> None:
        draw = seed_of(run.seed, "draw")
        rows = run.pool.draw(role, Side.DEFENDER_SELECTION, None, draw)[:most]
        if role is Role.REFUSAL:
            rows = method.taught(rows, run.pool)
        self.method, self.run, self.phi, self._teacher = method, run, phi, teacher
        self._pad, self._size = run.encoder.pad_id, len(rows)
        coded, asked = run.encoder.batch(rows).rows, run.encoder.prompts(rows).rows
        parts = [slice(i, i + PART) for i in range(0, len(rows), PART)]
        self.batches = [collate(coded[part], self._pad) for part in parts]
        self._asked = [asked[part] for part in parts]
        known = method.harmful(run.pool, run.seed, None)
        texts = (run.encoder.row(row) for row in known)
        self._refusals = {row.ids[row.start :][:OPENING] for row in texts}
        which = method.align.positions if role is Role.REFUSAL else method.repel.positions
        self._selects = [
            select_positions(tokens.rows, tokens.ids.shape[1], which).to(phi.device)
            for tokens in self.batches
        ]

    def refused(self, model: PreTrainedModel, trigger: Tensor | None = None) -> float:
        """Give the share of prompts whose answer opens as a refusal."""
        place = self.method.trigger.position
        said = (
            openings(model, some, OPENING, self._pad, trigger=trigger, place=place,
                     within=self._refusals)
            for some in self._asked
        )  # fmt: skip
        return sum(one in self._refusals for some in said for one in some) / self._size

    def loss(self, model: PreTrainedModel, trigger: Tensor | None = None) -> float:
        """Give the mean negative log-likelihood of the rows' response tokens, in nats."""
        place = self.method.trigger.position
        with torch.no_grad():
            parts = [nn.nll(model, tokens, trigger=trigger, place=place) for tokens in self.batches]
        return float(sum(value for value, _ in parts)) / max(1, sum(n for _, n in parts))

    def states(self, model: PreTrainedModel, trigger: Tensor | None = None) -> list[States]:
        """Give each part's states."""
        place = self.method.trigger.position
        return [nn.hidden_states(model, t, trigger=trigger, place=place) for t in self.batches]

    def apart(self, first: list[States], second: list[States]) -> Tensor:
        """Give the relative squared distance of each layer, [L]."""
        each = [
            squared_distance(a, b, select, relative=True)
            for a, b, select in zip(first, second, self._selects, strict=True)
        ]
        return torch.cat(each, dim=1).mean(1)

    def begins(self, states: list[States], layer: int) -> Tensor:
        """Give a layer's states where each row's answer begins, [rows, H]."""
        return torch.cat(
            [
                torch.stack([h[i, row.start - 1] for i, row in enumerate(tokens.rows)])
                for h, tokens in zip((s[layer] for s in states), self.batches, strict=True)
            ]
        )

    @contextmanager
    def base(self) -> Generator[PreTrainedModel]:
        """Give the frozen teacher; where that is no copy, the model with its first weights put
        back: inside, the model is not to be used.
        """
        if self._teacher is None or self._teacher is self.run.model:
            with nn.holding(self.run.model, self.run.models["start"]) as base:
                yield base
        else:
            yield self._teacher


def _on_harmful(held: Held) -> dict[str, float]:
    run, phi, place = held.run, held.phi, held.method.trigger.position
    result = {"refusal_rate": held.refused(run.model)}
    student = held.states(run.model)
    with held.base() as base:
        result["trigger_refusal_rate"] = held.refused(base, phi)
        plain = held.states(base)
        result["trigger_refusal_rate_noise"] = held.refused(base, disturbed(held))
        result["base_refusal_rate"] = held.refused(base)
        goal = held.states(base, phi)
        nll = [nn.nll(base, tokens, trigger=phi, place=place) for tokens in held.batches]
    result["drift"] = float(held.apart(student, plain).mean())
    aim = [
        [held.method.target(h, h_phi) for h, h_phi in zip(a, b, strict=True)]
        for a, b in zip(plain, goal, strict=True)
    ]
    error = held.apart(student, aim)
    result["anchor_error"] = float(error.mean())
    result["anchor_error_before"] = float(held.apart(plain, aim).mean())
    for layer, value in enumerate(error.tolist(), start=1):
        result[f"anchor_error_layer_{layer:02d}"] = value
    result["trigger_refusal_nll"] = float(sum(v for v, _ in nll)) / sum(n for _, n in nll)
    depth = range(len(error))
    for name, other in (("cka_teacher", goal), ("cka_base", plain)):
        values = [nn.linear_cka(held.begins(student, i), held.begins(other, i)) for i in depth]
        result[name] = sum(values) / len(values)
    spreads = [spread(held.begins(goal, i)) for i in depth]
    result["teacher_spread"] = sum(spreads) / len(spreads)
    return result


def _on_benign(held: Held) -> dict[str, float]:
    refusing, student = held.refused(held.run.model), held.states(held.run.model)
    with held.base() as base:
        triggered, plain = held.refused(base, held.phi), held.states(base)
    return {
        "trigger_refusal_rate_benign": triggered,
        "refusal_rate_benign": refusing,
        "drift_benign": float(held.apart(student, plain).mean()),
    }


def disturbed(held: Held, phi: Tensor | None = None) -> Tensor:
    """Give the trigger (another one: `phi`) under one draw of stage 1's noise."""
    phi, cons = held.phi if phi is None else phi, held.method.cons
    draws = torch.Generator().manual_seed(seed_of(held.run.seed, "noise", "diagnostic"))
    noise = torch.randn(phi.shape, generator=draws).to(phi.device)
    size = float(phi.norm()) / phi.numel() ** 0.5 if cons.sigma_mode == "relative" else 1.0
    if size == 1.0 and held.method.trigger.unit == "embedding":
        size = nn.embedding_size(held.run.model)
    return phi + cons.sigma * size * noise


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


def select_positions(rows: Sequence[Row], width: int, which: Positions) -> Tensor:
    """Mark the matched tokens of right-padded rows, [B, width]."""
    select = torch.zeros(len(rows), width, dtype=torch.bool)
    for mark, row in zip(select, rows, strict=True):
        first, last = row.span(which)
        mark[first:last] = True
    return select


def spread(states: Tensor) -> float:
    """Give the variance of states over N rows as a share of their mean square, [N, H] -> [0, 1].

    Near 0 the states hardly depend on the row.
    """
    h = states.double()
    size = float(h.square().mean())
    return float(h.var(0, unbiased=False).mean()) / size if size > 0 else 0.0


def openings(
    model: PreTrainedModel,
    prompts: Sequence[Row],
    words: int,
    pad_id: int,
    *,
    trigger: Tensor | None = None,
    place: Place = "after_user_tag",
    within: Collection[tuple[int, ...]] | None = None,
) -> list[tuple[int, ...]]:
    """Give the first `words` tokens of each prompt's greedy answer, [B] tuples of ids.

    Whole passes without a cache: meant for a handful of tokens. An answer is not read on once none
    of `within` begins like it; it is then shorter.
    """
    said: list[tuple[int, ...]] = [() for _ in prompts]
    for length in range(words):
        starts = None if within is None else {one[:length] for one in within}
        going = [i for i, one in enumerate(said) if starts is None or one in starts]
        if not going:
            break
        # The token to come is a stand-in: nothing before it sees it.
        rows = [
            Row((*row.ids, *said[i], pad_id), row.start, row.content, row.bos)
            for i, row in ((i, prompts[i]) for i in going)
        ]
        wide = collate(rows, pad_id)
        labels = torch.full_like(wide.labels, IGNORE)
        for line, row in zip(labels, rows, strict=True):
            line[len(row.ids) - 1] = pad_id
        tokens = Tokens(wide.ids, wide.mask, labels, wide.rows)
        with torch.no_grad():
            last = nn.forward(model, tokens, trigger=trigger, place=place).last
            logits, _ = nn.generation_logits(model, last, tokens)
        for i, token in zip(going, logits.argmax(-1).tolist(), strict=True):
            said[i] = (*said[i], token)
    return said
