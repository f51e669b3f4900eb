"""Harden a model with any defence, whatever its shape; the model is changed in place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from holdfast.api import Defence, Run, TrainedDefence, WeightDefence
from holdfast.data.example import Example, Role
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError
from holdfast.nn.weights import tensors
from holdfast.train.loop import Progress
from holdfast.train.training import Session, Sources, check_needs, left_as_found, trained, write

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
    session = Session.of(
        defence, model, encoder, pool, seed, work=work, sources=sources, progress=progress
    )
    with left_as_found(model):
        if isinstance(defence, WeightDefence):
            return _edit(defence, session.run)
        if isinstance(defence, TrainedDefence):
            return _train(defence, session)
    raise ConfigError(
        defence.name(), "has no shape", "derive it from Loss-, Gradient- or WeightDefence"
    )


def _train(defence: TrainedDefence, session: Session) -> Hardened:
    """Train, then measure what the training did."""
    run = session.run
    rows = defence.rows(run.pool, run.seed)
    check_roles(defence, rows)
    with trained(defence, session, rows) as (state, params):
        if defence.loop.lora is not None:  # until it is merged, the weights below are the start's
            plain = {k: v for k, v in tensors(run.model).items() if k not in params}
            kept = {k: v.to("cpu", copy=True) for k, v in plain.items()}
            run.models = {"start": kept, **run.models}
    run.model.eval()
    with torch.no_grad():
        diagnostics = defence.diagnostic(run, state)
    return Hardened(
        run.model,
        defence.loop.steps,
        session.meter.total,
        diagnostics,
        state=getattr(state, "keep", None) or {},
        about=getattr(state, "about", None) or {},
    )


def _edit(defence: WeightDefence, run: Run) -> Hardened:
    """Apply a closed-form edit: fp32 arithmetic inside, one cast when it is written."""
    run.models = {"start": tensors(run.model), **run.models}
    check_needs(defence, run)
    write(run.model, defence.edit(run), defence.name())
    return Hardened(run.model, 0, 0.0, defence.diagnostic(run, None))


def check_roles(defence: Defence, rows: Mapping[Role, list[Example]]) -> None:
    """Refuse rows of other roles than the defence declares."""
    if {role.value for role in rows} != set(defence.roles):
        raise ConfigError(
            defence.name(),
            f"reads roles {sorted(r.value for r in rows)}, declares {sorted(defence.roles)}",
            "make `roles` and `rows` agree",
        )
