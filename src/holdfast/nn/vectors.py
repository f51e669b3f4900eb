"""Vectors over the trainable parameters: gradients, norms, and weights shifted for a moment."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from holdfast.api import Loss, Term
from holdfast.errors import TrainingError

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


SURVIVES = 0.9
"""Least cosine and least norm ratio of a realised perturbation; source: ours."""

PIECE = 2**20
"""Numbers summed, moved or compared at once, so that it takes no room beside the model."""


def trainable(model: PreTrainedModel) -> dict[str, Tensor]:
    """Give the parameters that require a gradient, by name, in the model's own order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def all_trainable(model: PreTrainedModel) -> Generator[dict[str, Tensor]]:
    """Let every parameter have a gradient inside, under `torch.no_grad` too; flags are restored.

    Yields them by name. What a diagnostic reads from gradients is thus the same however the model
    was trained.
    """
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in wanted:
            p.requires_grad_(True)
        with torch.enable_grad():
            yield trainable(model)
    finally:
        for p, flag in wanted:
            p.requires_grad_(flag)


class ParamVector(dict[str, Tensor]):
    """One tensor for each trainable parameter, fp32 unless the optimiser owns less."""

    @classmethod
    def zeros(cls, params: Mapping[str, Tensor]) -> ParamVector:
        """Give the zero vector over `params`."""
        return cls({name: torch.zeros_like(p, dtype=_owned(p)) for name, p in params.items()})

    def add_(self, other: Mapping[str, Tensor], scale: float = 1.0) -> ParamVector:
        """Add `scale` times another vector in place."""
        for name, value in other.items():
            self[name].add_(value.to(self[name].dtype), alpha=scale)
        return self

    def scale_(self, factor: float) -> ParamVector:
        """Multiply by a number in place."""
        for value in self.values():
            value.mul_(factor)
        return self

    def dot(self, other: Mapping[str, Tensor]) -> float:
        """Give the inner product, summed in float64 over pieces."""
        pairs = (pair for name, mine in self.items() for pair in _pieces(mine, other[name]))
        return float(sum(mine.double().flatten() @ its.double().flatten() for mine, its in pairs))

    def norm(self) -> float:
        """Give the L2 norm over everything, summed in float64."""
        return self.dot(self) ** 0.5


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Give tensors of one shape piece by piece: views, whose changes are the tensors'.

    Cut along the first dimension, so a piece is one row at least.
    """
    views = [torch.atleast_1d(tensor.detach()) for tensor in tensors]
    rows = max(1, PIECE * len(views[0]) // max(1, views[0].numel()))
    return zip(*(view.split(rows) for view in views), strict=True)


def _owned(parameter: Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


Part = TypeVar("Part")


def total(loss: Loss) -> float:
    """Give the value of a step's loss from its summed terms: sum of weight x sum / count."""
    return sum(
        term.weight * float(term.sum) / term.count for term in loss.values() if term.count > 0
    )


def grad(
    params: Mapping[str, Tensor],
    loss: Callable[[Part], Loss],
    parts: Sequence[Part],
    counts: Callable[[Part], dict[str, float] | None] | None = None,
    *,
    into: ParamVector | None = None,
    scale: float = 1.0,
) -> tuple[ParamVector, Loss]:
    """Give the gradient of a whole optimiser step and its terms, summed over its parts.

    Args:
        params: what to differentiate by, name -> leaf tensor.
        loss: one part (a micro-batch) -> its terms.
        parts: the step's micro-batches.
        counts: one part -> each term's count without a forward pass; None has it measured by a
            forward pass without graph. Only asked where there are several parts.
        into: a vector over `params` that the gradient is added to and that is given back. Each
            tensor is added as the backward pass finds it, so no second gradient is ever held.
        scale: what the gradient is multiplied by; the terms are given as they are.

    Every term is divided by its count over the *whole* step, so a split changes nothing. A term
    whose count is 0 is left out. `once` terms enter with the first part only.
    """
    counted = _counted(loss, parts, counts) if len(parts) > 1 else None
    sums = ParamVector() if into is None else into
    summed: Loss = {}
    for number, part in enumerate(parts):
        terms = loss(part)
        value: Tensor | None = None
        for name, term in terms.items():
            if term.once and number > 0:
                continue
            whole = term.count if counted is None or term.once else counted[name]
            if whole > 0:
                piece = term.weight * term.sum / whole
                value = piece if value is None else value + piece
            seen = summed.get(name)
            summed[name] = Term(
                sum=term.sum.detach().float() + (seen.sum if seen else 0.0),
                count=term.count + (seen.count if seen else 0.0),
                weight=term.weight,
                unit=term.unit,
                once=term.once,
            )
        if value is None or not value.requires_grad:
            continue
        _collect(value if scale == 1.0 else value * scale, params, sums)
    missing = {name: p for name, p in params.items() if name not in sums}
    zeros = ParamVector.zeros(missing)
    if into is not None:
        into.update(zeros)
        return into, summed
    return ParamVector({n: sums[n] if n in sums else zeros[n] for n in params}), summed


def _counted(
    loss: Callable[[Part], Loss],
    parts: Sequence[Part],
    counts: Callable[[Part], dict[str, float] | None] | None,
) -> dict[str, float]:
    """Give each term's count over all parts, as `counts` says or as a pass without graph finds."""
    found: dict[str, float] = {}
    for number, part in enumerate(parts):
        known = counts(part) if counts is not None else None
        if known is None:
            with torch.no_grad():
                known = {k: t.count for k, t in loss(part).items() if not t.once or number == 0}
        for name, count in known.items():
            found[name] = found.get(name, 0.0) + count
    return found


def _collect(value: Tensor, params: Mapping[str, Tensor], sums: ParamVector) -> None:
    """Add the gradient of `value` to `sums`; what need not stay as it is is let go as it appears.

    A hook on a leaf sees its whole gradient before `autograd.grad` keeps it, and may hand on
    another of the same shape: here one number, spread out. So neither a second gradient nor a
    first one in fewer bits is ever held whole.
    """
    taken = {name for name, p in params.items() if name in sums or p.dtype != _owned(p)}

    def taking(name: str) -> Callable[[Tensor], Tensor]:
        def take(piece: Tensor) -> Tensor:
            if name in sums:
                sums[name].add_(piece.to(sums[name].dtype))
            else:
                sums[name] = piece.to(_owned(params[name]))
            return piece.new_zeros(()).expand_as(piece)

        return take

    handles = [params[name].register_hook(taking(name)) for name in taken]
    try:
        found = torch.autograd.grad(value, list(params.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    for name, piece in zip(params, found, strict=True):
        if piece is not None and name not in taken:
            _gather(sums, name, piece)


def _gather(sums: ParamVector, name: str, piece: Tensor) -> None:
    """Take a first gradient as it is, which saves a whole copy, unless another one shares it."""
    shared = any(piece.data_ptr() == other.data_ptr() for other in sums.values())
    sums[name] = piece.clone() if shared or not piece.is_contiguous() else piece


@contextmanager
def shifted(
    model: PreTrainedModel,
    direction: Mapping[str, Tensor],
    scale: float,
    *,
    where: str = "perturbation",
) -> Generator[dict[str, float]]:
    """Hold the weights at `w + scale * direction`; afterwards they are restored by copy.

    Yields the cosine and norm ratio of the realised against the intended perturbation in the dtype
    that the matrix products read (autocast's, where it is on).

    Raises:
        TrainingError: either is below 0.9: rounding has eaten the perturbation.
    """
    params = {name: p for name, p in model.named_parameters() if name in direction}
    device = next(iter(params.values())).device.type
    read = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    saved = {name: p.detach().clone() for name, p in params.items()}
    dot = want = got = 0.0
    try:
        with torch.no_grad():
            for name, p in params.items():
                for here, way in _pieces(p, direction[name]):
                    step = way.to(p.dtype if read is None else torch.float32) * scale
                    here.add_(step.to(p.dtype))
                parts = realised(p, saved[name], direction[name], read, scale=scale)
                dot, want, got = dot + parts[0], want + parts[1], got + parts[2]
        yield survived(dot, want, got, where)
    finally:
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(saved[name])


def survived(dot: float, want: float, got: float, where: str) -> dict[str, float]:
    """Give cosine and norm ratio from intended . realised, |intended|^2 and |realised|^2.

    Raises:
        TrainingError: either is below 0.9: rounding has eaten the perturbation.
    """
    cosine = dot / (want * got) ** 0.5 if want > 0 and got > 0 else 0.0
    ratio = (got / want) ** 0.5 if want > 0 else 0.0
    if want > 0 and (cosine < SURVIVES or ratio < SURVIVES):
        raise TrainingError(
            where,
            f"lost to rounding (cosine {cosine:.2f}, norm ratio {ratio:.2f})",
            "use precision: fp32 or a larger step",
        )
    return {"cosine": cosine, "norm_ratio": ratio}


def realised(
    now: Tensor,
    old: Tensor,
    meant: Tensor,
    read: torch.dtype | None = None,
    *,
    scale: float | None = None,
) -> tuple[float, float, float]:
    """Give intended . realised, |intended|^2 and |realised|^2 of one tensor's move.

    In fp32, summed in fp64 over pieces: differences of neighbours are exact, and the judgement
    needs one digit. fp64 tensors are compared in fp64.

    Args:
        meant: where it was to go; with `scale`, `scale * meant` is how far from `old`.
        read: the dtype that products read, where it is not the tensor's own.
    """
    dot = want = got = 0.0
    kind = torch.promote_types(now.dtype, torch.float32)
    for piece in _pieces(now, old, meant):
        new, before, goal = (part.flatten() for part in piece)
        aim = goal.to(kind) - before.to(kind) if scale is None else goal.to(kind) * scale
        seen, was = (new, before) if read is None else (new.to(read), before.to(read))
        real = seen.to(kind) - was.to(kind)
        dot += float(real @ aim)
        want += float(aim @ aim)
        got += float(real @ real)
    return dot, want, got


@contextmanager
def holding(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> Generator[PreTrainedModel]:
    """Hold the weights at `weights` by name; afterwards they are restored by copy, kept off the
    device meanwhile.
    """
    params = {name: p for name, p in model.named_parameters() if name in weights}
    saved = {name: p.detach().to("cpu", copy=True) for name, p in params.items()}
    try:
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(weights[name])
        yield model
    finally:
        with torch.no_grad():
            for name, p in params.items():
                p.copy_(saved[name])
