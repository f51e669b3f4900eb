"""Train one model with one method, a defence's or an attack's: the same function for both.

`harden` runs a whole defence; `holdfast.train.attacking` runs an attack.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from holdfast.api import (
    Attack,
    Batch,
    Defence,
    Enough,
    Loop,
    Loss,
    Run,
    Stage,
    State,
    TrainedAttack,
    TrainedDefence,
    WeightDefence,
)
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role, check_answered
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError, ModelError, TrainingError
from holdfast.nn.adapter import lora
from holdfast.nn.passes import FlopMeter
from holdfast.nn.vectors import ParamVector, grad, trainable
from holdfast.nn.weights import DTYPES, cast, tensors
from holdfast.train.loop import Gradient, MicroBatches, Progress, Stream, TrainLog, optimise

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

Trained = TrainedDefence | TrainedAttack
Sources = Mapping[str, Mapping[str, Tensor]]
"""Other models by what they are to this one (`original`, `start`), as tensors by name."""
Points = Mapping[int, Callable[[int], None]]
MEASURING = "measuring"
"""What progress tells of after the last step, as a part of no steps."""


@dataclass
class Session:
    """One method's work on one model: what it is handed, and what is kept of it on the way.

    `work` is the folder of checkpoints and `log.jsonl`, or None; `meter` counts FLOPs.
    """

    run: Run
    log: TrainLog
    meter: FlopMeter
    work: Path | None = None
    progress: Progress | None = None
    steps: int = 0
    """Optimiser steps that the method itself has taken, those of what it made before left out."""

    @classmethod
    def of(
        cls,
        method: Defence | Attack,
        model: PreTrainedModel,
        encoder: Encoder,
        pool: Pool,
        seed: int,
        *,
        work: Path | None = None,
        sources: Sources | None = None,
        progress: Progress | None = None,
    ) -> Session:
        """Begin a method's work; with checkpoints in `work`, training continues from them."""
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        name = method.name()
        log = TrainLog(work / "log.jsonl" if work is not None else None)
        seen = method.sees(pool)
        run = Run(model, encoder, seen, seed, models=dict(sources or {}), where=name, work=work)
        made = cls(run, log, FlopMeter(), work, progress)
        run.log = lambda **values: log.write(part=name, **values)
        run.fit = made.fit
        return made

    def fit(
        self,
        name: str,
        params: Mapping[str, Tensor],
        loss: Callable[[Batch, int], Loss],
        rows: Mapping[Role, list[Example]],
        loop: Loop,
        enough: Enough | None = None,
    ) -> int:
        """Train tensors that are no model weights (a trigger, a probe) on the same loop."""

        def gradient(parts: MicroBatches, step: int) -> tuple[ParamVector, Loss]:
            return grad(params, lambda part: loss(part, step), parts)

        return self.optimise(name, params, gradient, rows, loop, enough=enough)

    def optimise(
        self,
        name: str,
        params: Mapping[str, Tensor],
        gradient: Gradient,
        rows: Mapping[Role, list[Example]],
        loop: Loop,
        *,
        until: int | None = None,
        points: Points | None = None,
        before: Callable[[int], None] | None = None,
        enough: Enough | None = None,
    ) -> int:
        """Run the loop on rows of the pool; see `holdfast.train.optimise`.

        Raises:
            DataError: a row is longer than the model's context; before the first step.
        """
        self.run.encoder.check(row for some in rows.values() for row in some)
        return optimise(
            params,
            gradient,
            Stream(rows, self.run.encoder, loop, self.run.seed),
            loop,
            part=name,
            work=self.work,
            log=self.log,
            progress=self.progress,
            meter=self.meter,
            until=until,
            points=points,
            before=before,
            enough=enough,
        )


@dataclass
class Hardened:
    """A hardened model and what it took.

    `state` holds tensors worth keeping (a trigger), `about` what is said of them.
    """

    model: PreTrainedModel
    steps: int
    flops: float
    diagnostics: dict[str, float] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    def save_state(self, folder: Path) -> None:
        """Write each kept tensor to `state/NAME.safetensors` under a checkpoint's folder.

        Apart from the checkpoint, so that no loader takes it for weights.
        """
        for name, tensor in self.state.items():
            (folder / "state").mkdir(exist_ok=True)
            path = folder / "state" / f"{name}.safetensors"
            # One entry: of several, the file's order would be left to chance.
            said = {"holdfast": json.dumps(self.about, sort_keys=True)}
            save_file({name: tensor.detach().cpu().contiguous()}, path, metadata=said)


def harden(
    defence: Defence,
    model: PreTrainedModel,
    encoder: Encoder,
    pool: Pool,
    *,
    seed: int,
    work: Path | None = None,
    sources: Sources | None = None,
    progress: Progress | None = None,
) -> Hardened:
    """Run one defence on `model`, in place, and give it back with its cost.

    Args:
        sources: `original`, `start`, ... as tensor mappings; `start` defaults to the model itself,
            copied only for a defence that needs it (and, under LoRA, before the merge).
        work: folder for checkpoints and `log.jsonl`; with some there, the run continues.

    Raises:
        ConfigError, DataError, ModelError, TrainingError: see their texts.
    """
    if defence.when is Stage.TUNE:
        raise ConfigError(
            defence.name(),
            "acts while a customer's rows are trained on",
            "use `holdfast tune`, or holdfast.train.tune",
        )
    session = Session.of(
        defence, model, encoder, pool, seed, work=work, sources=sources, progress=progress
    )
    with left_as_found(model):
        if isinstance(defence, WeightDefence):
            return _edit(defence, session.run)
        if isinstance(defence, TrainedDefence):
            return train(defence, session, defence.rows(session.run.pool, seed))
    raise ConfigError(
        defence.name(), "has no shape", "derive it from Loss-, Gradient- or WeightDefence"
    )


def train(
    defence: TrainedDefence,
    session: Session,
    rows: Mapping[Role, list[Example]],
    *,
    admit: Callable[[State], list[Example]] | None = None,
    points: Points | None = None,
) -> Hardened:
    """Train, then measure what the training did.

    Args:
        rows: the defender's own, by role.
        admit: gives a customer's rows from the defence's state, for a defence at stage `tune`.
        points: step -> callback, called with the weights after that many steps.
    """
    run = session.run
    check_roles(defence, rows)
    check_answered(rows)

    def all_rows(state: State) -> Mapping[Role, list[Example]]:
        return rows if admit is None else {Role.TASK: admit(state), **rows}

    with trained(defence, session, all_rows, points=points) as (state, params):
        if defence.loop.lora is not None:  # until it is merged, the weights below are the start's
            plain = {k: v for k, v in tensors(run.model).items() if k not in params}
            kept = {k: v.to("cpu", copy=True) for k, v in plain.items()}
            run.models = {"start": kept, **run.models}
    run.model.eval()
    if session.progress is not None:
        session.progress(MEASURING, 0, 0)
    with torch.no_grad():
        diagnostics = defence.diagnostic(run, state)
    return Hardened(
        run.model,
        session.steps,
        session.meter.total,
        diagnostics,
        state=getattr(state, "keep", None) or {},
        about=getattr(state, "about", None) or {},
    )


def _edit(defence: WeightDefence, run: Run) -> Hardened:
    """Apply a closed-form edit: fp32 arithmetic inside, one cast when it is written."""
    run.models = {"start": tensors(run.model), **run.models}
    check_needs(defence, run)
    changed = defence.edit(run)
    frozen = [name for name, p in run.model.named_parameters() if not p.requires_grad]
    if moved := [name for name in frozen if name in changed]:
        raise ConfigError(
            defence.name(),
            f"edits '{moved[0]}', which is frozen (requires_grad is False)",
            "let it ask for a gradient, or use another defence",
        )
    write(run.model, changed, defence.name())
    return Hardened(run.model, 0, 0.0, defence.diagnostic(run, None))


def check_roles(defence: Defence, rows: Mapping[Role, list[Example]]) -> None:
    """Refuse rows of other roles than the defence declares; at stage `tune` it may draw fewer."""
    drawn, said = {role.value for role in rows}, set(defence.roles)
    right = drawn <= said if defence.when is Stage.TUNE else drawn == said
    if not right:
        raise ConfigError(
            defence.name(),
            f"reads roles {sorted(r.value for r in rows)}, declares {sorted(defence.roles)}",
            "make `roles` and `rows` agree",
        )


@contextmanager
def trained(
    method: Trained,
    session: Session,
    rows: Callable[[State], Mapping[Role, list[Example]]],
    *,
    until: int | None = None,
    points: Points | None = None,
) -> Generator[tuple[State, Mapping[str, Tensor]]]:
    """Train a model in place; give the method's state and the tensors that were trained.

    Inside the block the adapter of LoRA is still on; it is merged at its end. What is trained and
    in which dtype stays as the loop has it: see `left_as_found`.

    Args:
        rows: gives what is trained on, by role, from the method's state.
        until: steps to take, where they are not `loop.steps`.
        points: step -> callback, called with the weights after that many steps.

    Raises:
        DataError, ModelError, TrainingError: see their texts.
    """
    run, loop = session.run, method.loop
    model = run.model
    _check(method)
    check_needs(method, run, given=("start",))
    _ready(model, loop)
    if not trainable(model):
        what = "every parameter is frozen (requires_grad is False)"
        raise ConfigError(method.name(), what, "let some ask for a gradient")
    if "start" in method.needs and "start" not in run.models:
        run.models = {**run.models, "start": {k: v.clone() for k, v in tensors(model).items()}}
    with ExitStack() as stack:
        stack.enter_context(method.adapt(model))
        with session.meter.on():
            state = method.setup(run)
        params: Mapping[str, Tensor] = trainable(model)
        if loop.lora is not None:
            params = stack.enter_context(lora(model, loop.lora, seed_of(run.seed, "init", "lora")))
        with session.meter.on():
            state = method.begin(run, params, state)
        session.steps = session.optimise(
            method.name(),
            params,
            _gradient(method, model, params, state),
            rows(state),
            loop,
            until=until,
            points=points,
            before=(lambda step: method.on_step(step, state)) if method.writes("on_step") else None,
            enough=method.enough(run, state) if until is None else None,
        )
        yield state, params


def _check(method: Trained) -> None:
    """Refuse a method without a step, and a step that its batches cannot feed."""
    if method.writes("gradient"):
        if method.loop.batching == "mixed":
            raise ConfigError(
                f"{method.name()}.loop.batching",
                "mixed, but it needs rows of each role in every step",
                "use batching: stratified",
            )
    elif not method.writes("loss"):
        raise ConfigError(method.name(), "has no loss and no gradient", "write one of the two")


def _gradient(
    method: Trained, model: PreTrainedModel, params: Mapping[str, Tensor], state: State
) -> Gradient:
    """Give the step's gradient: the method's own, or that of its loss over all micro-batches."""
    if method.writes("gradient"):
        return lambda parts, _step: method.gradient(
            model, {role: [part[role] for part in parts] for role in parts[0]}, state
        )
    return lambda parts, _step: grad(
        params,
        lambda part: method.loss(model, part, state),
        parts,
        lambda part: method.counts(part, state),
    )


def _ready(model: PreTrainedModel, loop: Loop) -> None:
    """Bring the model to the loop's precision and choose what is trained.

    What the caller froze (`requires_grad` is False) stays frozen.
    """
    cast(model, DTYPES[loop.precision])
    if not loop.train_embeddings:
        head = model.get_output_embeddings()
        for part in (model.get_input_embeddings(), head):
            if part is not None:
                for p in part.parameters():
                    p.requires_grad_(False)


@contextmanager
def left_as_found(model: PreTrainedModel) -> Generator[None]:
    """Whatever happens inside, leave `requires_grad` as it was, in evaluation mode."""
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    try:
        yield
    finally:
        for name, p in model.named_parameters():
            p.requires_grad_(wanted.get(name, True))
        model.eval()


def check_needs(method: Defence | Attack, run: Run, given: tuple[str, ...] = ()) -> None:
    """Refuse a method that looks at a model nobody named; those in `given` come without a name."""
    for name in method.needs:
        if name not in run.models and name not in given:
            raise ModelError(method.name(), f"needs the '{name}' model", "name it in the study")


def write(model: PreTrainedModel, changed: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a model's parameters by name, cast once.

    Raises:
        ModelError: the model has no tensor of that name or shape.
        TrainingError: a number is not finite; nothing of that tensor is written.
    """
    params = dict(model.named_parameters())
    for name, value in changed.items():
        if name not in params:
            raise ModelError(where, f"the model has no tensor '{name}'", "check the original model")
        if params[name].shape != value.shape:
            raise ModelError(
                where,
                f"'{name}' is {tuple(value.shape)}, the model's is {tuple(params[name].shape)}",
                "use models of one architecture and vocabulary",
            )
        cast_once = value.detach().to(params[name].dtype)
        if not bool(cast_once.isfinite().all()):
            what = f"makes numbers of '{name}' that are not finite"
            raise TrainingError(where, what, "lower its strength, or check its rows and models")
        with torch.no_grad():
            params[name].copy_(cast_once)
