"""Load and save weights: safetensors only, dtype always said."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import Module

from holdfast.errors import ModelError

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase


DTYPES = {
    "fp32": torch.float32,
    "fp32_master": torch.float32,
    "bf16_kahan": torch.bfloat16,
    "bf16_stochastic": torch.bfloat16,
    "bf16_pure": torch.bfloat16,
}
"""The dtype weights are held in under each precision."""

SAVED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes weights are written in, by their names here."""

SAMPLE = 4096
"""Most values of each tensor that enter a model's hash: enough that no two checkpoints agree, few
enough that an 8B model takes a moment."""


def load(
    folder: Path, *, precision: str = "fp32", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer in plain Hugging Face form.

    Raises:
        ModelError: the folder holds no model that `AutoModelForCausalLM` loads.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=DTYPES[precision], local_files_only=True, use_safetensors=True
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(str(folder), f"cannot be loaded ({cause})", "check the folder") from None
    return model.to(device).eval(), tokenizer


def cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Cast a model's weights in place, and no others than loading it in `dtype` would.

    Buffers keep their precision (positions turned by a frequency rounded to bf16 are others), and
    so do the few weights that the library holds in fp32 under every dtype.
    """
    plan = model._get_dtype_plan(dtype)
    kept = [(re.compile(pattern.replace("*", ".*")), own) for pattern, own in plan.items()]
    for name, p in model.named_parameters():
        if p.is_floating_point():
            p.data = p.data.to(next((own for rule, own in kept if rule.search(name)), dtype))
    return model


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write model and tokenizer in plain Hugging Face form into an existing folder.

    Args:
        dtype: what the weights are written in; None writes them as they are held. The model itself
            stays as it is.

    Raises:
        ModelError: a weight is too large for `dtype`.
    """
    held = [(name, p, p.data) for name, p in model.named_parameters()]
    try:
        if dtype is not None:
            cast(model, dtype)
            for name, p, before in held:
                if bool(before.isfinite().all()) and not bool(p.isfinite().all()):
                    raise ModelError(
                        f"weight '{name}'", f"too large for {_told(dtype)}", "save it in bf16 or fp32"
                    )
        model.save_pretrained(folder)
    finally:
        for _, p, before in held:
            p.data = before
    tokenizer.save_pretrained(folder)


def _told(dtype: torch.dtype) -> str:
    return next((name for name, one in SAVED.items() if one is dtype), str(dtype))


class _Files(Mapping[str, Tensor]):
    """The tensors of a checkpoint by name, each read when asked for.

    A name that the files do not have is looked up in the model that the library loads from them:
    it renames, joins and ties tensors by rules of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: Mapping[str, Tensor] | None = None
        self._where: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._where |= dict.fromkeys(file.keys(), path)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._where:
            return self._as_loaded()[name]
        with safe_open(self._where[name], framework="pt") as file:
            return file.get_tensor(name)

    def _as_loaded(self) -> Mapping[str, Tensor]:
        """Load the model once, where this is the folder of one."""
        if self._loaded is None:
            whole = (self._folder / "config.json").is_file()
            self._loaded = tensors(load(self._folder)[0]) if whole else {}
        return self._loaded

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def tensors(source: Path | Module) -> Mapping[str, Tensor]:
    """Give a checkpoint's tensors by parameter name, lazily; a model gives its own, detached."""
    if isinstance(source, Module):
        return {name: p.detach() for name, p in source.named_parameters()}
    return _Files(source)


def model_hash(model: Module) -> str:
    """Give a hash of a model's weights: names, shapes and evenly spaced values of every tensor.

    Values are read as bf16, so the same checkpoint has one hash under every precision.
    """
    found = hashlib.sha256()
    for name, p in sorted(model.named_parameters()):
        flat = p.detach().flatten()
        some = flat[:: max(1, -(-len(flat) // SAMPLE))].to("cpu", torch.bfloat16)
        found.update(f"{name} {tuple(p.shape)}\n".encode())
        found.update(some.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
