"""Harden a model with any defence, whatever its shape; the model is changed in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from holdfast.api import (
    Batch,
    Defence,
    GradientDefence,
    Loop,
    Loss,
    LossDefence,
    Run,
    TrainedDefence,
    WeightDefence,
)
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError, ModelError
from holdfast.nn.adapter import lora
from holdfast.nn.passes import FlopMeter
from holdfast.nn.vectors import ParamVector, grad, trainable
from holdfast.nn.weights import DTYPES, tensors
from holdfast.train.loop import MicroBatches, Progress, Stream, TrainLog, optimise

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel


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


def ready(model: PreTrainedModel, loop: Loop) -> None:
    """Bring the model to the loop's precision and choose what is trained."""
    model.to(DTYPES[loop.precision])
    for p in model.parameters():
        p.requires_grad_(True)
    if not loop.train_embeddings:
        head = model.get_output_embeddings()
        for part in (model.get_input_embeddings(), head):
            if part is not None:
                for p in part.parameters():
                    p.requires_grad_(False)


def harden(
    defence: Defence,
    model: PreTrainedModel,
    encoder: Encoder,
    pool: Pool,
    *,
    seed: int,
    work: Path | None = None,
    sources: Mapping[str, Mapping[str, Tensor]] | None = None,
    progress: Progress | None = None,
) -> Hardened:
    """Run one defence on `model`, in place, and give it back with its cost.

    Args:
        sources: `original`, `start`, ... as tensor mappings; `start` defaults to the model itself,
            copied only for a defence that needs it (and, under LoRA, before the merge).
        work: folder for checkpoints and `log.jsonl`; with some there, the run continues.

    Raises:
        DataError, ModelError, TrainingError: see their texts.
    """
    log = TrainLog(work / "log.jsonl" if work is not None else None)
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    meter = FlopMeter()
    sources = dict(sources or {})
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    run = Run(
        model=model,
        encoder=encoder,
        pool=pool,
        seed=seed,
        models=sources,
        log=lambda **values: log.write(part=defence.name(), **values),
        where=defence.name(),
        fit=partial(
            fit, encoder=encoder, seed=seed, work=work, log=log, progress=progress, meter=meter
        ),
    )
    try:
        if isinstance(defence, WeightDefence):
            return _edit(defence, run)
        if not isinstance(defence, TrainedDefence):
            raise ConfigError(
                defence.name(), "has no shape", "derive it from Loss-, Gradient- or WeightDefence"
            )
        rows = defence.rows(pool, seed)
        check_roles(defence, rows)
        loop = defence.loop
        ready(model, loop)
        if "start" in defence.needs:
            sources.setdefault("start", {k: v.clone() for k, v in tensors(model).items()})
        with ExitStack() as stack:
            stack.enter_context(defence.adapt(model))
            with meter.on():
                state = defence.setup(run)
            if loop.lora is None:
                params = trainable(model)
            else:
                params = stack.enter_context(lora(model, loop.lora, seed_of(seed, "init", "lora")))
            optimise(
                params,
                _gradient(defence, model, params, state),
                Stream(rows, encoder, loop, seed),
                loop,
                part=defence.name(),
                work=work,
                log=log,
                progress=progress,
                meter=meter,
                before=lambda step: defence.on_step(step, state),
            )
            if loop.lora is not None:  # until it is merged, the weights below are the start's
                plain = {k: v for k, v in tensors(model).items() if k not in params}
                kept = {k: v.to("cpu", copy=True) for k, v in plain.items()}
                sources.setdefault("start", kept)
        model.eval()
        with torch.no_grad():
            diagnostics = defence.diagnostic(run, state)
        kept, about = (getattr(state, name, None) or {} for name in ("keep", "about"))
        return Hardened(model, loop.steps, meter.total, diagnostics, kept, about)
    finally:
        for name, p in model.named_parameters():
            p.requires_grad_(wanted.get(name, True))
        model.eval()


def fit(
    name: str,
    params: Mapping[str, Tensor],
    loss: Callable[[Batch, int], Loss],
    rows: Mapping[Role, list[Example]],
    loop: Loop,
    **around: Any,
) -> None:
    """Train tensors that are no model weights (a trigger, a probe) on the same loop."""
    seed, encoder = around.pop("seed"), around.pop("encoder")
    optimise(
        params,
        lambda parts, step: grad(params, lambda part: loss(part, step), parts),
        Stream(rows, encoder, loop, seed),
        loop,
        part=name,
        **around,
    )


def _gradient(
    defence: TrainedDefence, model: PreTrainedModel, params: Mapping[str, Tensor], state: Any
) -> Callable[[MicroBatches, int], tuple[ParamVector, Loss]]:
    """Give the step's gradient by the defence's shape."""
    if isinstance(defence, LossDefence):
        return lambda parts, _step: grad(
            params,
            lambda part: defence.loss(model, part, state),
            parts,
            lambda part: defence.counts(part, state),
        )
    if isinstance(defence, GradientDefence):
        if defence.loop.batching == "mixed":
            raise ConfigError(
                f"{defence.name()}.loop.batching",
                "mixed, but it needs rows of each role in every step",
                "use batching: stratified",
            )
        return lambda parts, _step: defence.gradient(
            model, {role: [part[role] for part in parts] for role in parts[0]}, state
        )
    raise ConfigError(defence.name(), "has no loss and no gradient", "derive it from a shape")


def check_roles(defence: Defence, rows: Mapping[Role, list[Example]]) -> None:
    """Refuse rows of other roles than the defence declares."""
    if {role.value for role in rows} != set(defence.roles):
        raise ConfigError(
            defence.name(),
            f"reads roles {sorted(r.value for r in rows)}, declares {sorted(defence.roles)}",
            "make `roles` and `rows` agree",
        )


def _edit(defence: WeightDefence, run: Run) -> Hardened:
    """Apply a closed-form edit: fp32 arithmetic inside, one cast here."""
    run.models = {"start": tensors(run.model), **run.models}
    for name in defence.needs:
        if name not in run.models:
            raise ModelError(defence.name(), f"needs the '{name}' model", "name it in the study")
    changed = defence.edit(run)
    write(run.model, changed, defence.name())
    return Hardened(run.model, 0, 0.0, defence.diagnostic(run, None))


def write(model: PreTrainedModel, changed: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a model's parameters by name, cast once."""
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
        with torch.no_grad():
            params[name].copy_(value.to(params[name].dtype))


def apply(
    defence: Defence,
    model: PreTrainedModel,
    tokenizer: Any,
    pool: Pool,
    *,
    form: str = "plain",
    seed: int = 0,
    original: Mapping[str, Tensor] | None = None,
    work: Path | None = None,
) -> PreTrainedModel:
    """Harden a model in memory and give it back (the same object, changed).

    Args:
        form: the prompt format: plain, chat, or a .jinja file.
        original: the tensors of the public original, for methods that need it.
        work: folder for checkpoints; the same call continues from them.
    """
    sources = {"original": original} if original is not None else {}
    encoder = Encoder(tokenizer, form)
    done = harden(defence, model, encoder, pool, seed=seed, work=work, sources=sources)
    if work is not None:
        (work / "diagnostics.json").write_text(json.dumps(done.diagnostics, indent=2))
    return done.model
