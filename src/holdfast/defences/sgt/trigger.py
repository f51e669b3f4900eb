"""A trained trigger on disk: it says which model, format and place it was made for, and a wrong one
is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from holdfast import nn
from holdfast.api import Run
from holdfast.api import seed as seed_of
from holdfast.data.example import Role
from holdfast.errors import ConfigError, ModelError
from holdfast.nn.weights import model_hash

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.data.tokens import Encoder
    from holdfast.defences.sgt import SGT

KIND = "holdfast trigger"


def trigger_about(
    model: Module, encoder: Encoder, position: str, trigger: Tensor
) -> dict[str, str]:
    """Give what a file that holds a trigger [K, H] says of it, in its safetensors metadata."""
    form = replace(encoder.format, append_eos=True).identity()
    if encoder.format.form == "chat":
        form["template"] = hashlib.sha256(str(encoder.tokenizer.chat_template).encode()).hexdigest()
    return {
        "kind": KIND,
        "model": model_hash(model),
        "format": json.dumps(form, sort_keys=True),
        "position": position,
        "length": str(len(trigger)),
        "width": str(trigger.shape[1]),
    }


def load_trigger(path: Path, model: Module, encoder: Encoder, position: str) -> Tensor:
    """Read a trigger [K, H] made for this model, format and place.

    Raises:
        ModelError: no such file, no trigger, or one of another model, format, place or width.
    """
    where = str(path)
    if not path.is_file():
        raise ModelError(where, "no such trigger file", "check the path")
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("holdfast", "{}"))
            found = file.get_tensor("trigger")
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise ModelError(where, f"no trigger file ({error})", "name one made here") from None
    if said.get("kind") != KIND:
        raise ModelError(where, "holds no trigger", "name one made here")
    want = trigger_about(model, encoder, position, found)
    if said.get("model") != want["model"]:
        raise ModelError(
            where,
            f"trigger of another model ({said.get('model', '')[:12]}, this one is "
            f"{want['model'][:12]})",
            "train one for this model",
        )
    for name, todo in (
        ("format", "use the format it was trained in"),
        ("position", "set trigger.position to it"),
        ("width", "train one for this model"),
    ):
        if said.get(name) != want[name]:
            raise ModelError(
                where, f"trained with {name} {said.get(name)}, asked for {want[name]}", todo
            )
    return found


def given(method: SGT, teacher: PreTrainedModel, run: Run) -> Tensor:
    """Read a trigger trained before."""
    path, place = Path(str(method.trigger.file)), method.trigger.position
    phi = load_trigger(path, teacher, run.encoder, place)
    if len(phi) != method.trigger.length:
        raise ConfigError(
            f"{method.name()}.trigger.length",
            f"{method.trigger.length}, the file's is {len(phi)}",
            f"set it to {len(phi)}",
        )
    return phi


def learned(method: SGT, teacher: PreTrainedModel, run: Run) -> Tensor:
    """Train the trigger on the one loop, of which `run.fit` is the door."""
    from holdfast.defences.sgt.ending import trigger_learnt

    width = nn.embedding_width(teacher)
    generator = torch.Generator().manual_seed(seed_of(run.seed, "init", "trigger"))
    first = torch.randn(method.trigger.length, width, generator=generator)
    device = next(teacher.parameters()).device
    phi = (first * method.trigger.init_std).to(device).requires_grad_(True)
    unit = nn.embedding_size(teacher) if method.trigger.unit == "embedding" else 1.0
    run.fit(
        "trigger",
        {"trigger": phi},
        lambda batch, step: method.stage1_loss(teacher, batch, phi, run.seed, step, unit),
        {Role.REFUSAL: method.harmful(run.pool, run.seed, method.n_stage1 or method.n_refusal)},
        method.stage1,
        trigger_learnt(method, run, teacher, phi, unit),
    )
    return phi * unit
