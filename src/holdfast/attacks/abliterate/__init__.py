"""Abliteration: take the direction of refusal out of a model. No training, no harmful answer.

Arditi et al. 2024 (arXiv 2406.11717): the difference of the mean states of restricted and benign
prompts at the last prompt token, projected out. The affine form puts the benign mean back (Marshall
et al. 2024, arXiv 2411.09003).
Symbols: L blocks, H width, N restricted and M benign prompts, k directions, c strength.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from holdfast import nn
from holdfast.api import Attack, Control, Count, Layer, Run, Share, WeightAttack
from holdfast.api import seed as seed_of
from holdfast.api.fields import NO_EFFECT, AsTuple
from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Side
from holdfast.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.pool import Pool
    from holdfast.nn.perturb import Output

Form = Literal["stream", "each", "block"]


FEWEST = 2
"""Prompts of each kind, at least."""
LEFT_OVER = 0.05
"""Share of what a block wrote along the direction that may be left by the whole edit (rounding)."""


def directions(restricted: Tensor, benign: Tensor, rank: int) -> Tensor:
    """Give k orthonormal directions [H, k] from states [N, H] and [M, H], in fp32.

    k = 1: d = mean(restricted) - mean(benign), divided by its length. k > 1: the first k left
    singular vectors of the differences restricted - mean(benign), as columns [H, N].
    """
    apart = restricted.float() - benign.float().mean(0)
    if rank == 1:
        d = apart.mean(0)
        return (d / d.norm())[:, None]
    return torch.linalg.svd(apart.T, full_matrices=False)[0][:, :rank]


def projected_out(weight: Tensor, r: Tensor, c: float, axis: int = -2) -> Tensor:
    """Give W - c r r^T W, in fp32: what W writes, without c of its part along r.

    Args:
        weight: [..., H, in] where `axis` is -2, [..., in, H] or a bias [..., H] where it is -1.
        r: [H, k], orthonormal.
    """
    w = weight.float().movedim(axis, -1)
    return (w - c * (w @ r) @ r.T).movedim(-1, axis)


def moved_to_benign(h: Tensor, r: Tensor, c: float, mean: Tensor) -> Tensor:
    """Give h - c r r^T (h - mean), [..., H]: along r, c of the way to the benign mean [H]."""
    away = (h.float() - mean) @ r
    return (h.float() - c * away @ r.T).to(h.dtype)


def spread_over_groups(rows: Sequence[Example]) -> list[Example]:
    """Give the rows so that one of each group comes before a second of any, else as they are."""
    seen: Counter[str] = Counter()
    turns = []
    for place, row in enumerate(rows):
        seen[row.group] += 1
        turns.append((seen[row.group], place, row))
    return [row for _, _, row in sorted(turns, key=lambda turn: turn[:2])]


def _too_many(where: str, rank: int, most: int) -> ConfigError:
    return ConfigError(
        f"{where}.ranks",
        f"{rank} directions asked for, the prompts give at most {most}",
        "use fewer, or add restricted prompts",
    )


@dataclass(frozen=True, slots=True)
class Found:
    """The directions: `r` [H, k] by block number from 1, and the mean benign state [H] of each."""

    r: dict[int, Tensor]
    mean: dict[int, Tensor]


class Abliterate(WeightAttack):
    """Project the refusal direction out of the weights, or out of one block's output.

    By default every form, layer and strength is a choice of its own; a study takes the one that is
    worst on the attacker's selection prompts.
    """

    control: ClassVar[Control] = Control.WEIGHTS
    unit: ClassVar[str] = "c"
    fidelity: ClassVar[str] = (
        "the formulas of two papers, read; layers and strengths are chosen by harm on the "
        "attacker's own prompts in place of the paper's refusal score; no published number tried"
    )
    status: ClassVar[str] = "checked against its equations; tuned on the offline world only"

    forms: Annotated[tuple[Form, ...], AsTuple, Field(min_length=1)] = ("stream", "each", "block")
    """`stream`: one direction, removed from all that every block writes; `each`: the same with each
    block's own direction; `block`: one block's output, the benign mean put back, while the model
    answers. Source: Arditi et al.; Marshall et al."""
    layers: Annotated[tuple[Layer, ...], AsTuple, Field(min_length=1)] = (0.25, 0.5, 0.75, 1.0)
    """Where the direction is read (`stream`) or acted on (`block`); source: ours, four depths."""
    ranks: Annotated[tuple[Count, ...], AsTuple, Field(min_length=1)] = (1,)
    """How many directions; source: Arditi et al.'s 1."""
    evaluate_at: Annotated[
        tuple[Annotated[Share, Field(gt=0)], ...],
        AsTuple,
        Field(min_length=1, json_schema_extra=NO_EFFECT),
    ] = (0.5, 0.75, 1.0)
    """Strengths c; 1 removes the direction whole. Source: ours, three strengths."""
    n: Annotated[int, Field(ge=2)] = 24
    """Prompts of each kind at most, one of each group before a second of any; source: ours,
    docs/fidelity/abliterate.md."""
    embedding: bool = False
    """Whether what the embedding writes is projected too (`stream` only). A head that shares the
    embedding's matrix is edited with it, so it is left alone by default."""

    def expand(self, pool: Pool) -> Sequence[Attack]:
        """Give a choice for each form, layer and rank; `each` knows no layer."""
        return [
            self.with_(forms=(form,), layers=(layer,), ranks=(rank,))
            for form in self.forms
            for layer in (self.layers if form != "each" else self.layers[:1])
            for rank in self.ranks
        ]

    def points(self) -> tuple[float, ...]:
        """Give the strengths, ascending."""
        return tuple(sorted(set(self.evaluate_at)))

    @property
    def weights_alone(self) -> bool:
        """Say no for `block`, which acts while the model answers.

        Whoever holds the weights may as well add the bias it stands for.
        """
        return "block" not in self.forms

    def label(self) -> str:
        """Give form, layer and, where there are several directions, how many."""
        said = [" or ".join(self.forms)]
        if self.forms != ("each",):
            said.append("at " + ", ".join(f"{layer:g}" for layer in self.layers))
        if self.ranks != (1,):
            said.append("rank " + ", ".join(map(str, self.ranks)))
        return " ".join(said)

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Draw the attacker's restricted and benign prompts; no answer of theirs is read.

        Benign prompts about a restricted thing (of a group that has a restricted prompt) are left
        out where there are others: they share what sets restricted prompts apart, and with them the
        direction misses it (LOG.md, 2026-11-26).
        """
        restricted = self._prompts(pool, Role.HARMFUL, seed)
        about = {row.group for row in restricted}
        benign = self._prompts(pool, Role.BENIGN, seed)
        apart = [row for row in benign if row.group not in about]
        chosen = {
            Role.HARMFUL: spread_over_groups(restricted)[: self.n],
            Role.BENIGN: spread_over_groups(apart if len(apart) >= FEWEST else benign)[: self.n],
        }
        if max(self.ranks) > len(chosen[Role.HARMFUL]):
            raise _too_many(self.name(), max(self.ranks), len(chosen[Role.HARMFUL]))
        return chosen

    def _prompts(self, pool: Pool, role: Role, seed: int) -> list[Example]:
        drawn = pool.draw(role, Side.ATTACKER, None, seed_of(seed, "draw"), what=self.name())
        prompts = list({row.uid: row for row in drawn}.values())
        if len(prompts) < FEWEST:
            raise DataError(
                f"{self.name()} of role {role.value}, side {Side.ATTACKER.value}",
                "1 prompt, which has no mean of its own",
                f"add some: at least {FEWEST}",
            )
        return prompts

    def setup(self, run: Run) -> Found:
        """Read the directions off the model as released.

        Raises:
            ConfigError: several choices, a layer beyond the model's depth, too large a rank.
            ModelError: the two kinds of prompts leave the model in the same state, or the edit
                would not reach all that its blocks write.
        """
        if len(self.expand(run.pool)) != 1:
            raise ConfigError(run.where, "is several choices", "give one of forms, layers, ranks")
        rows = self.rows(run.pool, run.seed)
        states = {
            role: nn.opening_states(run.model, run.encoder, some, final_norm=False)
            for role, some in rows.items()
        }
        depth = states[Role.HARMFUL].shape[0]
        (form,), layer, (rank,) = self.forms, self.layers[0], self.ranks
        read = nn.layer_number(layer, depth, f"{run.where}.layers")
        wanted = range(1, depth + 1) if form == "each" else (read,)
        device = next(run.model.parameters()).device
        r, mean = {}, {}
        for number in wanted:
            restricted, benign = states[Role.HARMFUL][number - 1], states[Role.BENIGN][number - 1]
            if torch.equal(restricted.mean(0), benign.mean(0)):
                raise ModelError(
                    run.where, "restricted and benign prompts leave it alike", "check the prompts"
                )
            if rank > min(restricted.shape):
                raise _too_many(run.where, rank, min(restricted.shape))
            r[number] = directions(restricted, benign, rank).to(device)
            mean[number] = benign.mean(0).to(device)
        if form == "stream":
            r = dict.fromkeys(range(1, depth + 1), r[read])
        found = Found(r, mean)
        if form != "block" and next(run.model.parameters()).dtype in (torch.float32, torch.float64):
            self._check(run, found, [some[0] for some in rows.values()])
        return found

    def _check(self, run: Run, found: Found, rows: Sequence[Example]) -> None:
        """Edit at c = 1, look whether the blocks still write along the direction, and put it back.

        An architecture whose writers are told wrong would otherwise pass for a model that holds.
        """
        from holdfast.attacks.abliterate.writers import added_by_blocks

        tokens = run.encoder.prompts(rows, left=False)
        with nn.FlopMeter().on():  # the check is ours, no cost of the attacker's
            before = added_by_blocks(run.model, tokens)
            with nn.holding(run.model, self.edit(run, 1.0, found)):
                after = added_by_blocks(run.model, tokens)
        for number, (was, now) in enumerate(zip(before, after, strict=True), start=1):
            along = [(added @ found.r[number].to(added.device)).norm() for added in (was, now)]
            if not along[1] <= max(along[0], now.norm() / now.shape[-1] ** 0.5) * LEFT_OVER:
                raise ModelError(
                    run.where,
                    f"block {number} still writes along the direction after the edit",
                    "this architecture's writers are not known: use forms: [block]",
                )

    def edit(self, run: Run, point: float, state: Found) -> dict[str, Tensor]:
        """Give every matrix that writes to the stream, projected; none for `block`."""
        from holdfast.attacks.abliterate.writers import writers

        if self.forms == ("block",):
            return {}
        edited = {}
        for number, own in enumerate(writers(run.model), start=1):
            for writer in own:
                r = state.r[number]
                if writer.gain is not None:  # a norm between: (g * y) . r = y . (g * r)
                    r = torch.linalg.qr(writer.gain[:, None] * r)[0]
                edited[writer.name] = projected_out(writer.tensor, r, point, writer.axis)
        if self.embedding and self.forms == ("stream",):
            table: Any = run.model.get_input_embeddings().weight
            names = {id(p): name for name, p in run.model.named_parameters()}
            edited[names[id(table)]] = projected_out(table, state.r[1], point, -1)
        return edited

    @contextmanager
    def while_asked(self, model: PreTrainedModel, point: float, state: Found) -> Generator[None]:
        """Move one block's output to the benign mean along the direction; only for `block`."""
        if self.forms != ("block",):
            yield
            return
        ((number, r),) = state.r.items()
        mean = state.mean[number]

        def move(_module: object, _inputs: object, output: Output) -> Output:
            if isinstance(output, tuple):
                return (moved_to_benign(output[0], r, point, mean), *output[1:])
            return moved_to_benign(output, r, point, mean)

        handle = nn.blocks(model)[number - 1].register_forward_hook(move)
        try:
            yield
        finally:
            handle.remove()
