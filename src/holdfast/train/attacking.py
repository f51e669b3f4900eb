"""Run an attack and stop at each budget; one trajectory serves the whole curve."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.api import Attack, Chain, Run, TrainedAttack, WeightAttack
from holdfast.api import seed as seed_of
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError, ModelError
from holdfast.nn.adapter import lora
from holdfast.nn.passes import FlopMeter
from holdfast.nn.vectors import grad, trainable
from holdfast.nn.weights import tensors
from holdfast.train.hardening import fit, ready, write
from holdfast.train.loop import Progress, Stream, TrainLog, optimise

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
    sources: Mapping[str, Mapping[str, Tensor]] | None = None,
    progress: Progress | None = None,
) -> None:
    """Attack `model` in place and call `on_point` with the weights live at each budget.

    Under LoRA the adapter is on while a point is measured, and merged only at the end. What an
    attack makes first (`setup`) is made from the model as released and counts as FLOPs spent. An
    edit starts from the release at every budget and is undone at the end; so is a chain's.

    Args:
        points: ascending budgets above 0, each one of those `method.points()` could name.
        work: folder for checkpoints; the run continues from one that lies before every point.
        sources: `original` as a tensor mapping, for an attack that needs it.
    """
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    if isinstance(method, WeightAttack):
        with editing(method, model, encoder, pool, seed, sources or {}, work) as at:
            for point in points:
                with at(point) as flops:
                    on_point(point, PointInfo(0, flops))
        return
    if isinstance(method, Chain):
        (first,) = method.first.points()
        given = {"seed": seed, "work": work, "sources": sources, "progress": progress}
        around = editing(method.first, model, encoder, pool, seed, sources or {}, work)
        with around as at, at(first) as flops:

            def then(point: float, info: PointInfo) -> None:
                on_point(point, PointInfo(info.steps, info.flops + flops))

            attack(method.then, model, encoder, pool, points=points, on_point=then, **given)
        return
    if not isinstance(method, TrainedAttack):
        raise ConfigError(method.name(), "has no shape", "derive it from Trained- or WeightAttack")
    run = Run(model, encoder, pool, seed, models=dict(sources or {}), where=method.name())
    _check_needs(method, run)
    steps = {method.step_of(point): point for point in points}
    loop = method.train_loop().with_(steps=max(steps))
    meter = FlopMeter()
    log = TrainLog(work / "log.jsonl" if work is not None else None)
    run.log = lambda **values: log.write(part=method.name(), **values)
    run.fit = partial(
        fit, encoder=encoder, seed=seed, work=work, log=log, progress=progress, meter=meter
    )

    def stop(step: int) -> None:
        model.eval()
        on_point(steps[step], PointInfo(step, meter.total))

    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    ready(model, loop)
    try:
        with ExitStack() as stack:
            with meter.on():
                state = method.setup(run)
            if loop.lora is None:
                params = trainable(model)
            else:
                params = stack.enter_context(lora(model, loop.lora, seed_of(seed, "init", "lora")))
            optimise(
                params,
                lambda parts, _step: grad(params, lambda b: method.loss(model, b, state), parts),
                Stream(method.rows(pool, seed), encoder, loop, seed),
                loop,
                part=method.name(),
                work=work,
                log=log,
                progress=progress,
                meter=meter,
                points=dict.fromkeys(steps, stop),
            )
    finally:
        for name, p in model.named_parameters():
            p.requires_grad_(wanted.get(name, True))
        model.eval()


@contextmanager
def editing(
    method: WeightAttack,
    model: PreTrainedModel,
    encoder: Encoder,
    pool: Pool,
    seed: int,
    sources: Mapping[str, Mapping[str, Tensor]],
    work: Path | None = None,
) -> Generator[Callable[[float], AbstractContextManager[float]]]:
    """Give what edits a model for one budget at a time, each from the weights as released.

    `with at(point) as flops:` edits, says what finding the edit took, and undoes it at the end,
    with whatever else became of the weights inside (training).
    """
    start = {name: value.clone() for name, value in tensors(model).items()}
    run = Run(model, encoder, pool, seed, models={"start": start, **sources}, where=method.name())
    _check_needs(method, run)
    log = TrainLog(work / "log.jsonl" if work is not None else None)
    run.log = lambda **values: log.write(part=method.name(), **values)
    meter = FlopMeter()
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


def _check_needs(method: Attack, run: Run) -> None:
    """Refuse an attack that looks at a model nobody named."""
    for name in method.needs:
        if name not in run.models:
            raise ModelError(method.name(), f"needs the '{name}' model", "name it in the study")
