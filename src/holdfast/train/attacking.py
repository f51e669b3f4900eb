"""Run an attack and stop at each budget; one trajectory serves the whole curve."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from holdfast.api import Attack, Chain, TrainedAttack, WeightAttack
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError
from holdfast.nn.adapter import merged
from holdfast.nn.weights import tensors
from holdfast.train.loop import Progress
from holdfast.train.training import Session, Sources, check_needs, left_as_found, trained, write

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


@dataclass(frozen=True, slots=True)
class PointInfo:
    """What the attacker has spent at a point: optimiser steps and FLOPs."""

    steps: int
    flops: float


OnPoint = Callable[[float, PointInfo], None]


def attack(
    method: Attack,
    model: PreTrainedModel,
    encoder: Encoder,
    pool: Pool,
    *,
    seed: int,
    points: Sequence[float],
    on_point: OnPoint,
    work: Path | None = None,
    sources: Sources | None = None,
    progress: Progress | None = None,
) -> None:
    """Attack `model` in place and call `on_point` with the weights live at each budget.

    Under LoRA a point is measured as it would be saved: the adapter merged, the weights in their
    dtype. Training goes on with the adapter as it was. What an attack makes first (`setup`) is made
    from the model as released and counts as FLOPs spent. An edit starts from the release at every
    budget and is undone at the end; so is a chain's.

    Args:
        points: ascending budgets above 0, each one of those `method.points()` could name.
        work: folder for checkpoints; the run continues from one that lies before every point.
        sources: `original` as a tensor mapping, for an attack that needs it.
    """
    around: dict[str, Any] = {"work": work, "sources": sources, "progress": progress}
    if isinstance(method, WeightAttack):
        with editing(method, Session.of(method, model, encoder, pool, seed, **around)) as at:
            for point in points:
                with at(point) as flops:
                    on_point(point, PointInfo(0, flops))
    elif isinstance(method, Chain):
        (first,) = method.first.points()
        session = Session.of(method.first, model, encoder, pool, seed, **around)
        with editing(method.first, session) as at, at(first) as flops:

            def then(point: float, info: PointInfo) -> None:
                on_point(point, PointInfo(info.steps, info.flops + flops))

            session = Session.of(method.then, model, encoder, pool, seed, **around)
            _train(method.then, session, points, then)
    elif isinstance(method, TrainedAttack):
        session = Session.of(method, model, encoder, pool, seed, **around)
        _train(method, session, points, on_point)
    else:
        raise ConfigError(method.name(), "has no shape", "derive it from Trained- or WeightAttack")


def _train(
    method: TrainedAttack, session: Session, points: Sequence[float], on_point: OnPoint
) -> None:
    """Train to the last budget asked for and stop at each."""
    model, steps = session.run.model, {method.step_of(point): point for point in points}

    def stop(step: int) -> None:
        model.eval()
        with merged(model):
            on_point(steps[step], PointInfo(step, session.meter.total))

    with left_as_found(model):
        rows = method.rows(session.run.pool, session.run.seed)
        at = dict.fromkeys(steps, stop)
        with trained(method, session, lambda _: rows, until=max(steps), points=at):
            pass  # every budget has been measured


@contextmanager
def editing(
    method: WeightAttack, session: Session
) -> Generator[Callable[[float], AbstractContextManager[float]]]:
    """Give what edits a model for one budget at a time, each from the weights as released.

    `with at(point) as flops:` edits, says what finding the edit took, and undoes it at the end,
    with whatever else became of the weights inside (training).
    """
    run, meter = session.run, session.meter
    model = run.model
    start = {name: value.clone() for name, value in tensors(model).items()}
    run.models = {"start": start, **run.models}
    check_needs(method, run)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}

    def train_again(again: bool) -> None:
        for name, p in model.named_parameters():
            p.requires_grad_(again and wanted.get(name, True))
        model.eval()

    train_again(False)  # the meter counts what a pass costs without a backward pass
    with meter.on(), torch.no_grad():
        state = method.setup(run)

    @contextmanager
    def at(point: float) -> Generator[float]:
        train_again(False)
        try:
            with meter.on(), torch.no_grad():
                write(model, method.edit(run, point, state), method.name())  # and kept no longer
            train_again(True)
            with method.while_asked(model, point, state):
                yield meter.total
        finally:
            write(model, start, method.name())

    try:
        yield at
    finally:
        train_again(True)
