"""Load and save weights: safetensors only, dtype always said."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import Module

from holdfast.errors import LONGEST, ModelError
from holdfast.nn.content import content, unchanged
from holdfast.nn.files import ModelFiles, header
from holdfast.nn.quiet import quiet
from holdfast.nn.skeleton import Checkpoint, check_names, refuse

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
    source: Path | ModelFiles,
    *,
    precision: str = "fp32",
    device: str = "cpu",
    auto: str = "AutoModelForCausalLM",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model, a causal language model unless said, and its tokenizer, in Hugging Face form.

    Every weight comes from the files: one that is missing, left over or of another shape is an
    error, where the library would draw it at random.

    Args:
        source: a folder, or a model's files, which must be those that were found.
        auto: the class of transformers that chooses the model's own.

    Raises:
        ModelError: the folder holds no model that `auto` loads, its weights are not those of its
            config or not finite, or its files changed since they were found.
    """
    import transformers

    folder = source if isinstance(source, Path) else source.folder
    if isinstance(source, ModelFiles):
        check_names(source, str(folder), auto)
        content(source)
    try:
        with quiet():
            loaded: Any = getattr(transformers, auto).from_pretrained(
                folder,
                dtype=DTYPES[precision],
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
            )
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # a folder's files may be wrong in any way
        cause = str(error).splitlines()[0][:LONGEST] if str(error) else type(error).__name__
        raise ModelError(str(folder), f"cannot be loaded ({cause})", "check the folder") from None
    model, info = loaded
    refuse(info, str(folder))
    check_finite(model, str(folder), "copy it again, or use another checkpoint")
    if isinstance(source, ModelFiles):
        unchanged(source)
    return model.to(device).eval(), tokenizer


def check_finite(model: Module, where: str, todo: str) -> None:
    """Refuse weights of which one is no finite number: whatever they say tells nothing.

    Raises:
        ModelError: names the first tensor.
    """
    for name, p in model.named_parameters():
        if p.numel() and not bool(torch.stack(torch.aminmax(p.detach())).isfinite().all()):
            raise ModelError(where, f"'{name}' holds a number that is not finite", todo)


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
    dtype: str | None = None,
) -> None:
    """Write model and tokenizer in plain Hugging Face form into an existing folder.

    Args:
        dtype: what the weights are written in, a name of `SAVED`; None writes them as they are
            held. The model itself stays as it is.

    Raises:
        ModelError: a weight is not finite, or too large for `dtype`.
    """
    check_finite(model, "weights", "lower the rate or the strength of what made them")
    held = [(name, p, p.data) for name, p in model.named_parameters()]
    try:
        if dtype is not None:
            cast(model, SAVED[dtype])
        for name, p, before in held:
            if p.dtype != before.dtype and bool(p.isinf().any()) and not bool(before.isinf().any()):
                raise ModelError(f"'{name}'", f"is too large for {dtype}", "save in bf16 or fp32")
        with quiet():
            model.save_pretrained(folder)
    finally:
        for _, p, before in held:
            p.data = before
    tokenizer.init_kwargs.pop("local_files_only", None)  # how it was read here is nobody's matter
    tokenizer.save_pretrained(folder)


class _Raw(Mapping[str, Tensor]):
    """The tensors of a folder that holds no model, each read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._where |= dict.fromkeys(header(path), path)

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._where[name], framework="pt") as file:
            return file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def tensors(source: Path | Module) -> Mapping[str, Tensor]:
    """Give a checkpoint's tensors by parameter name, lazily and as stored; a model's, detached.

    A folder without a config (what a defence kept) gives its tensors by their own names.
    """
    if isinstance(source, Module):
        return {name: p.detach() for name, p in source.named_parameters()}
    return Checkpoint(source) if (source / "config.json").is_file() else _Raw(source)


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
