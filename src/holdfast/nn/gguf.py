"""A GGUF file, made once into a folder that everything here reads.

The folder lies in the user's cache under the file's SHA-256. Its weights are in fp32, whatever the
file holds: fp32 keeps each dequantised value as it was computed, where bf16 and fp16 would round it
once more. transformers does the reading; here is what it does not look at. A file from which it
would make another model, without a word, is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from holdfast.data.format import MARKER
from holdfast.disk import cache_folder, locked, whole_folder, writing
from holdfast.errors import ModelError, StoreError, install, one_line
from holdfast.nn.quiet import quiet

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers.configuration_utils import PretrainedConfig
    from transformers.modeling_utils import PreTrainedModel
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

FORM = 1
"""How files are converted: another form of the same file is another folder."""

PARAMETERS_A_SECOND = 10e6
"""How fast conversion is on one core, for the line that says how long it takes (measured)."""

INSTEAD = "give the checkpoint it was made from, in safetensors"

NOTHING: Mapping[str, str] = MappingProxyType({})


def sha256(path: Path) -> str:
    """Give the hash of a file; of one that has not changed since, without reading it again."""
    found = path.stat()
    return _sha256(path, found.st_size, found.st_mtime_ns)


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def converted(path: Path, where: str, about: Mapping[str, str] = NOTHING) -> Path:
    """Give the folder that a GGUF file becomes, making it at first use.

    Args:
        where: what an error names, as `study.models.base.path`.
        about: what the folder's marker says of the file beside its name and hash.

    Raises:
        ModelError: it is no whole GGUF file, or none that becomes the same model in transformers.
        StoreError: the cache cannot be written, or has too little space.
    """
    try:
        digest = sha256(path)
    except OSError as error:
        cause = error.strerror or str(error)
        raise ModelError(
            where, f"{path} cannot be read ({cause.lower()})", "check the path and its rights"
        ) from None
    found = kept(digest)
    if found is not None:
        return found
    reader = _read(path, where)
    _needed(where)
    with _told(path, where):
        _check_header(reader)
        size = sum(int(tensor.n_elements) for tensor in reader.tensors)
        folder = _folder(digest)
        _check_space(folder, 4 * size)
        log.info(
            "making %s into %s, once: about %.0f s",
            path.name,
            folder,
            10 + size / PARAMETERS_A_SECOND,
        )
        with locked(folder):
            if kept(digest) is None:  # else another process has just made it
                _make(path, reader, digest, about)
    return folder


def kept(digest: str) -> Path | None:
    """Give the folder that a file of this hash became, if it is there and whole."""
    folder = _folder(digest)
    try:
        files = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
        whole = all((folder / name).stat().st_size == said["bytes"] for name, said in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return folder if whole else None


def _folder(digest: str) -> Path:
    return cache_folder() / "models" / f"gguf{FORM}-{digest[:32]}"


# -- what a file must hold ------------------------------------------------------------------------


class _UnfitError(Exception):
    """Why a file is refused, and what to do."""


@contextmanager
def _told(path: Path, where: str) -> Generator[None]:
    try:
        yield
    except _UnfitError as error:
        what, todo = error.args
        raise ModelError(where, f"{path} {what}", todo) from None


def _needed(where: str) -> None:
    """Refuse to go on without what transformers reads GGUF files with."""
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise ModelError(
            where,
            f"a GGUF file is read with the packages gguf and accelerate ({error})",
            install("smol"),
        ) from None


def _read(path: Path, where: str) -> GGUFReader:
    """Read a file's header; its tensors are read where they are used."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(
                where, f"{path} is no GGUF file", "give a .gguf file or a model's folder"
            )
    _needed(where)
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # a header may be wrong in any way
        raise ModelError(
            where, f"{path} is not a whole GGUF file ({one_line(error)})", "copy it again"
        ) from None


def _value(reader: GGUFReader, key: str) -> Any:  # noqa: ANN401  a header holds any JSON type
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _check_header(reader: GGUFReader) -> None:
    """Refuse what is no whole decoder with its tokenizer, in types that can be dequantised."""
    from gguf import dequantize

    kind, parts = _value(reader, "general.type"), _value(reader, "split.count")
    if kind not in (None, "model"):
        raise _UnfitError(f"holds no whole model but: {kind}", "give the model's own file")
    if parts is not None and parts > 1:
        raise _UnfitError(
            f"is one of {parts} parts", "join them with `llama-gguf-split --merge` and give that"
        )
    if not isinstance(_value(reader, "general.architecture"), str):
        raise _UnfitError("names no architecture", INSTEAD)
    if reader.get_field("tokenizer.ggml.tokens") is None:
        raise _UnfitError("holds no tokenizer", INSTEAD)
    scaled = [t.name for t in reader.tensors if t.name.startswith(("rope_freqs", "rope_factors"))]
    if scaled:
        raise _UnfitError(f"scales positions ({scaled[0]}), which transformers leaves out", INSTEAD)
    for tensor in reader.tensors:
        try:
            dequantize(tensor.data[:1], tensor.tensor_type)
        except NotImplementedError:
            name = tensor.tensor_type.name
            raise _UnfitError(f"is quantised as {name}, which cannot be undone", INSTEAD) from None


SHAPES = frozenset(
    {
        *("block_count", "embedding_length", "feed_forward_length", "vocab_size"),
        *("attention.key_length", "attention.value_length", "expert_count"),
        *("expert_feed_forward_length", "expert_shared_feed_forward_length"),
        *("ssm.conv_kernel", "ssm.inner_size", "ssm.state_size", "ssm.time_step_rank"),
    }
)
"""Settings that the weights' shapes and their number prove."""

EPSILON = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps")
SAME: Mapping[str, tuple[str, ...]] = {
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_attention_heads"),
    "attention.layer_norm_epsilon": EPSILON,
    "attention.layer_norm_rms_epsilon": EPSILON,
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "context_length": ("max_position_embeddings",),
    "expert_used_count": ("num_experts_per_tok",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "use_parallel_residual": ("use_parallel_residual",),
}
"""Settings, and what the config calls them: the first name it has."""

PLAIN: Mapping[str, object] = {
    "attention.causal": True,
    "rope.scaling.type": "none",
    "ssm.dt_b_c_rms": False,
}
"""Settings that transformers leaves out, and the value at which that changes nothing."""

WRITTEN_NOWHERE: Mapping[str, int] = {"gemma2": 46, "gemma3": 62}
"""Architectures of which the size of this many layers has an attention scale of its own, which
llama.cpp knows by heart and no file holds."""


def _check_settings(reader: GGUFReader, config: PretrainedConfig) -> None:
    """Refuse a file of which a setting is not the config's: it would be another model."""
    family = _value(reader, "general.architecture")
    if WRITTEN_NOWHERE.get(family) == config.num_hidden_layers:
        raise _UnfitError("does not hold its attention scale", INSTEAD)
    for key in reader.fields:
        prefix, _, name = key.partition(".")
        if prefix != family or name in SHAPES:
            continue
        said, read = _value(reader, key), _as_read(name, config)
        equal = said == read
        if isinstance(said, float) and isinstance(read, int | float):
            equal = math.isclose(said, read, rel_tol=1e-6)
        if not equal:
            shown = str(said)[:40]
            raise _UnfitError(f"has {key} = {shown}, which transformers does not read", INSTEAD)


def _as_read(name: str, config: PretrainedConfig) -> object:
    """Give what a config makes of a setting, or None."""
    if name in PLAIN:
        return PLAIN[name]
    rope = getattr(config, "rope_parameters", None) or {}
    if name == "rope.freq_base":
        return rope.get("rope_theta")
    if name == "rope.dimension_count":
        width = getattr(config, "head_dim", None)
        width = width or config.hidden_size // config.num_attention_heads
        return int(width * rope.get("partial_rotary_factor", 1))
    return next((getattr(config, one) for one in SAME.get(name, ()) if hasattr(config, one)), None)


# -- how a file is converted ----------------------------------------------------------------------


def _check_space(folder: Path, size: int) -> None:
    """Refuse to begin where the weights do not fit on the disk."""
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
    if size > free:
        raise StoreError(
            str(folder),
            f"needs {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free",
            "free some space, or name another folder with HOLDFAST_CACHE",
        )


def _make(path: Path, reader: GGUFReader, digest: str, about: Mapping[str, str]) -> None:
    """Convert a file into its folder of the cache."""
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # one bar asks nobody
            config = _config(path)
            _check_settings(reader, config)
            model = _model(path, reader, config)
            tokenizer = _tokenizer(path, reader, config)
    except (_UnfitError, MemoryError):
        raise
    except Exception as error:  # the library raises whatever it stumbles over
        raise _UnfitError(f"is not read by transformers ({one_line(error)})", INSTEAD) from None
    with whole_folder(_folder(digest), replace=True) as folder:
        with quiet():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        _same_everywhere(folder)
        types = sorted({t.tensor_type.name for t in reader.tensors} - {"F32"})
        source = {**about, "file": path.name, "sha256": digest}
        marker = {
            "source": source | {"weights": f"dequantised from {', '.join(types) or 'F32'} to fp32"},
            "versions": {name: metadata.version(name) for name in ("gguf", "transformers")},
            "files": {
                one.name: {"bytes": one.stat().st_size, "sha256": sha256(one)}
                for one in sorted(folder.iterdir())
            },
        }
        (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _config(path: Path) -> PretrainedConfig:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _UnfitError(f"holds a {config.model_type} model, which is no decoder", INSTEAD)
    return config


def _model(path: Path, reader: GGUFReader, config: PretrainedConfig) -> PreTrainedModel:
    """Load the weights in fp32; refuse them unless all of the file's fill all of the model."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        config=config,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are named below
    )
    model, report = loaded
    lacking, unlike = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if lacking:
        raise _UnfitError(f"holds no {lacking[0]}, which its architecture needs", INSTEAD)
    if unlike:
        name, theirs, own = unlike[0]
        raise _UnfitError(
            f"holds {name} in the shape {tuple(theirs)}, and the model has {tuple(own)}", INSTEAD
        )
    held = sum(int(tensor.n_elements) for tensor in reader.tensors)
    used = sum(p.numel() for p in model.parameters())
    if held != used:
        raise _UnfitError(f"holds {held:,} numbers, of which the model takes {used:,}", INSTEAD)
    return model


DIGITS = frozenset(
    {"codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder"}
)
"""llama.cpp's names of the rule that cuts out each digit, then cuts text as GPT-2 does."""

AS_GPT2 = frozenset({"gpt-2", "granite-docling", "jais", "mpt", "olmo", "phi-2", "trillion"})
"""Its names of the rule that cuts text as GPT-2 does."""


def _tokenizer(path: Path, reader: GGUFReader, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Build the tokenizer: the file's tokens and no others, text cut as the file says."""
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    read: Any = PreTrainedTokenizerFast.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True
    )
    words = len(reader.fields["tokenizer.ggml.tokens"].data)
    said = json.loads(read.backend_tokenizer.to_str())
    # The library's own `<|endoftext|>` is put behind the tokens of a file that has none.
    said["added_tokens"] = [one for one in said["added_tokens"] if one["id"] < words]
    inner = Tokenizer.from_str(json.dumps(said))
    if not inner.get_vocab_size() == words <= config.vocab_size:
        raise _UnfitError(
            f"holds {words} tokens for {config.vocab_size} embeddings, and transformers reads "
            f"{inner.get_vocab_size()}",
            INSTEAD,
        )
    rule = _value(reader, "tokenizer.ggml.pre")
    if rule in DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        inner.pre_tokenizer = pre_tokenizers.Sequence([digits, inner.pre_tokenizer])
    elif isinstance(inner.pre_tokenizer, pre_tokenizers.ByteLevel) and rule not in AS_GPT2:
        raise _UnfitError(
            f"cuts text by the rule '{rule}', which transformers does not know", INSTEAD
        )
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "chat_template")
    kept = {name: getattr(read, name) for name in names if getattr(read, name) is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=config.max_position_embeddings, **kept
    )


def _same_everywhere(folder: Path) -> None:
    """Have the folder's identity depend on the file it was made from alone.

    An identity holds the time of a large weights file, and the text of the config.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("_model_name_or_path", "transformers_version"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in folder.glob("*.safetensors"):
        os.utime(path, ns=(0, 0))
