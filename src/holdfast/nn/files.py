"""Where a model's files lie and what they are, told without torch at plan time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.api.registry import shipped_models
from holdfast.disk import lies_at
from holdfast.errors import ModelError
from holdfast.nn.gguf import converted

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""What the library loads a folder's weights from: the one file, or else those that the index names.
Nothing else in a folder is ever loaded."""

ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
"""What peft calls an adapter's two files."""

CARD = "README.md"
"""What the hub calls a model's card."""

SMALL = 64 << 20
"""Bytes up to which a weights file is hashed whole wherever its identity is asked for."""

FLOATS = {"F64": "fp64", "F32": "fp32", "BF16": "bf16", "F16": "fp16"}
"""The dtypes of weights, as a safetensors header names them, and their names here."""

COPY = "copy it again"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a safetensors header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    """Bytes of the file it fills."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one state of a file from another without reading it: bytes, time, file."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Take a file's stamp; of a link, that of the file it ends in."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine: the spec it was asked for by, and its folder."""

    spec: str
    folder: Path
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False)
    """Of each weights file when it was found, by name."""

    def shards(self) -> list[Path]:
        """Give the safetensors files that the library loads, and no others.

        Raises:
            ModelError: the index is not one that may be followed.
        """
        return weights_in(self.folder)

    def identity(self) -> dict[str, Any]:
        """Give what enters a key at plan time.

        The hashes of every small file (config, tokenizer) and, of each shard, its header, size
        and, unless the file is small enough to be hashed whole, its time of change.
        """
        parts: dict[str, Any] = {}
        for path in sorted(self.folder.iterdir()):
            if path.suffix in (".json", ".jinja", ".model") and path.name not in (
                "manifest.json",
                "holdfast.json",
            ):
                parts[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for path in self.shards():
            size = path.stat().st_size
            if size <= SMALL:
                parts[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                stamp = f"{_raw_header(path)}/{size}/{path.stat().st_mtime_ns}"
                parts[path.name] = hashlib.sha256(stamp.encode()).hexdigest()
        return parts

    def dtype(self) -> str:
        """Give the dtype that most bytes of the weights have: fp32, bf16 or fp16."""
        sizes = dict.fromkeys(("fp32", "bf16", "fp16"), 0)
        for path in self.shards():
            for entry in header(path).values():
                name = FLOATS.get(entry.dtype)
                if name in sizes:
                    sizes[name] += entry.size
        return max(sizes, key=lambda name: sizes[name])


def weights_in(folder: Path) -> list[Path]:
    """Give the files that the library loads a folder's weights from, sorted; none where none are.

    Raises:
        ModelError: the index is no index, or names what is no safetensors file of its own folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return [folder / name for name in sorted(set(_index(folder / INDEX).values()))]
    return []


def header(path: Path) -> dict[str, Entry]:
    """Read what a safetensors file holds, and check that it is as long as its header says.

    Raises:
        ModelError: it is no whole safetensors file.
    """
    try:
        raw = _raw_header(path)
        said = json.loads(raw)
        said.pop("__metadata__", None)
        found, end = {}, 0
        for name, one in sorted(said.items(), key=lambda pair: pair[1]["data_offsets"]):
            begin, next_end = one["data_offsets"]
            if begin != end or next_end < begin:
                raise ValueError(f"bytes of {shown(name)} overlap others or leave a gap")
            found[name] = Entry(str(one["dtype"]), tuple(map(int, one["shape"])), next_end - begin)
            end = next_end
        size, whole = path.stat().st_size, 8 + len(raw) + end
    except (*_UNREADABLE, AttributeError, KeyError, TypeError) as error:
        raise ModelError(str(path), f"not a whole safetensors file ({error})", COPY) from None
    if whole != size:
        told = f"truncated: {size} bytes, its header says {whole}"
        raise ModelError(str(path), told, COPY)
    return found


def _raw_header(path: Path) -> bytes:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size - 8:
            raise ValueError("the header is cut off")
        return file.read(length)


_UNREADABLE = (OSError, ValueError, RecursionError, struct.error)


def config_of(folder: Path) -> dict[str, Any]:
    """Read a model's `config.json`.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("no JSON object")
    except (OSError, ValueError, RecursionError, TypeError) as error:
        raise ModelError(str(folder), f"no readable config ({error})", "copy it") from None
    return config


def _index(path: Path) -> dict[str, str]:
    """Read an index: the file of each tensor, a plain name beside the index itself.

    Raises:
        ModelError: it is no index, or names what is no safetensors file of its own folder.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(found, dict) or not found:
            raise TypeError("`weight_map` maps no tensor")
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        cause = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ModelError(str(path), f"not an index of weights ({cause})", COPY) from None
    for name in found.values():
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise ModelError(
                str(path),
                f"names {shown(name)}, which is no *.safetensors file of its own folder",
                "get the checkpoint from a source you trust",
            )
        if not (path.parent / name).is_file():
            raise ModelError(str(path), f"names {shown(name)}, which is not there", "copy it too")
    return found


_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


def shown(name: object) -> str:
    """Give a name out of a file for an error: quoted, cut, without control characters."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."


def some(names: Iterable[str]) -> str:
    """Give up to three names and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(shown(name) for name in names[:3]) + more


def resolve(spec: str, where: str = "model") -> ModelFiles:
    """Find a model's files: `world:base`, a folder, a GGUF file, or `org/name@COMMIT`.

    A GGUF file, and a model that a test bed makes out of one, is converted at first use.

    Raises:
        ModelError: nothing there, no config, weights that are not whole safetensors files, or a
            hub name without a commit.
    """
    shipped = shipped_models()
    if not spec.strip():
        raise ModelError(where, "is empty", "name a folder, a .gguf file, or org/name@COMMIT")
    if spec in shipped:
        given = shipped[spec]
        folder = given if isinstance(given, Path) else given(where)
    elif spec.partition(":")[0] in {name.partition(":")[0] for name in shipped}:
        raise ModelError(where, f"no shipped model '{spec}'", "known: " + ", ".join(shipped))
    elif lies_at(Path(spec)) == "folder":
        folder = Path(spec)
    elif spec.lower().endswith(".gguf"):
        folder = converted(Path(spec), where)
    else:
        folder = _from_hub(spec, where)
    _check_files(folder)
    _one_model(spec, folder, where)
    shards = weights_in(folder)
    if not shards:
        raise ModelError(where, *_no_weights(spec, folder))
    for path in shards:
        _own(path)
    _agree(folder, shards)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(where, f"no tokenizer.json in {spec}", "add the model's fast tokenizer")
    return ModelFiles(spec, folder, {path.name: Stamp.of(path) for path in shards})


def resolve_adapter(spec: str, where: str = "adapter") -> Path:
    """Find a LoRA adapter: a folder, or `org/name@COMMIT` in the local cache.

    Raises:
        ModelError: nothing there, or no adapter in safetensors form.
    """
    folder = Path(spec) if Path(spec).is_dir() else _from_hub(spec, where)
    for name in (ADAPTER_CONFIG, ADAPTER):
        if not (folder / name).is_file():
            raise ModelError(where, f"no {name} in {spec}", "name a folder that holds an adapter")
        _own(folder / name)
    header(folder / ADAPTER)
    return folder


def _one_model(spec: str, folder: Path, where: str) -> None:
    """Refuse a folder that is no model, or whose weights are not all in its safetensors files."""
    adapter = (folder / ADAPTER_CONFIG).is_file()
    if not (folder / "config.json").is_file():
        if adapter:
            raise ModelError(
                where,
                f"{spec} holds an adapter, no whole model",
                "merge it into its base and save that",
            )
        inside = sorted(folder.glob("*.gguf"))
        if inside:
            raise ModelError(
                where,
                f"{spec} holds no model's folder but a GGUF file",
                f"name the file itself, {inside[0]}",
            )
        raise ModelError(where, f"no config.json in {spec}", "name a folder that holds a model")
    if adapter:
        raise ModelError(
            where,
            f"{spec} holds an adapter beside its weights",
            f"merge it and save that, or remove {ADAPTER_CONFIG}",
        )
    config = config_of(folder)
    if config.get("quantization_config"):  # spelling: theirs
        raise ModelError(
            where,
            f"{spec} is quantised, which cannot be trained",
            "give the checkpoint it was quantised from",
        )
    elsewhere = config.get("transformers_weights")
    if elsewhere is not None:
        raise ModelError(
            where,
            f"the config of {spec} has its weights in {shown(elsewhere)}",
            f"name that file {WEIGHTS} and remove `transformers_weights`",
        )
    if any(_DISTRIBUTED.match(path.name) for path in folder.iterdir()):
        raise ModelError(
            where,
            f"{spec} holds the shards of a distributed checkpoint",
            "load it and save it with save_pretrained",
        )


_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors$")


READ = (".json", ".jinja", ".model", ".safetensors", ".txt")
"""How the names of the files end that the libraries read."""
NOTES = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files of a model that may be left out, and must be JSON objects."""


def _check_files(folder: Path) -> None:
    """Refuse what would be waited for or read without end, and small files that are no JSON."""
    for path in sorted(folder.iterdir()):
        if path.suffix in READ and path.exists() and not path.is_file():
            raise ModelError(str(path), "is no regular file", COPY)
    for path in [folder / name for name in NOTES if (folder / name).is_file()]:
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(noted, dict):
                raise TypeError
        except (OSError, ValueError, RecursionError, TypeError):
            raise ModelError(str(path), "is no JSON object", COPY) from None
        _check_note(path, noted)


def _check_note(path: Path, noted: dict[str, Any]) -> None:
    """Refuse a length or an end token that the libraries would only trip over later."""
    longest, ends = noted.get("model_max_length"), noted.get("eos_token_id")
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int | float)):
        raise ModelError(str(path), f"model_max_length is {shown(longest)}, no number", COPY)
    every = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in every):
        raise ModelError(str(path), f"eos_token_id is {shown(ends)}, no token's number", COPY)


def _no_weights(spec: str, folder: Path) -> tuple[str, str]:
    """Say what stands in a folder in place of weights that can be loaded, and what to do."""
    names = [path.name for path in folder.iterdir()]
    pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        return (
            f"{spec} holds pickled weights ({some(pickled)}), which can run code when loaded",
            "convert them to safetensors where you trust them",
        )
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        return (
            f"{spec} has {some(others)}, but no {WEIGHTS} and no {INDEX}",
            "save it with save_pretrained",
        )
    return f"no safetensors files in {spec}", "convert the weights first"


def _own(path: Path) -> None:
    """Refuse a link out of the folder; the hub's cache links to the blobs it keeps beside it."""
    home, real = path.parent.resolve(), path.resolve()
    blobs = home.parent.parent / "blobs"
    cached = home.parent.name == "snapshots" and real.is_relative_to(blobs)
    if not cached and not real.is_relative_to(home):
        raise ModelError(str(path), "links to a file outside its folder", "copy that file here")


def _agree(folder: Path, shards: list[Path]) -> None:
    """Refuse shards that are not whole, and tensors that index and shards place differently."""
    headers = {path.name: header(path) for path in shards}
    if (folder / WEIGHTS).is_file():
        return
    said = {(name, shard) for name, shard in _index(folder / INDEX).items()}
    held = {(name, shard) for shard, entries in headers.items() for name in entries}
    for apart, told in (
        (said - held, "places {0} in {1}, which has no such tensor"),
        (held - said, "does not name {0}, which {1} holds"),
    ):
        if apart:
            name, shard = min(apart)
            more = f" ({len(apart)} such)" if len(apart) > 1 else ""
            raise ModelError(str(folder / INDEX), told.format(shown(name), shard) + more, COPY)


_LOCAL_ONLY: ContextVar[bool] = ContextVar("local_only", default=False)


@contextmanager
def local_only() -> Generator[None]:
    """Fetch no model inside, whatever the network: one that is not here is a ModelError."""
    token = _LOCAL_ONLY.set(True)
    try:
        yield
    finally:
        _LOCAL_ONLY.reset(token)


def _from_hub(spec: str, where: str) -> Path:
    name, _, commit = spec.partition("@")
    if lies_at(Path(spec)) == "file":
        raise ModelError(where, f"{spec[:200]} is a file", "give the folder of a model, or a .gguf")
    if spec.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            where,
            f"no such model folder: {spec[:200]}",
            "give a folder, world:base or org/name@COMMIT",
        )
    if not commit:
        what = f"no such folder, and as a model of the hub {spec} names no commit"
        raise ModelError(where, what, f"check the path, or write {name}@COMMIT")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", CARD]
    offline = _LOCAL_ONLY.get() or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    try:
        return Path(
            snapshot_download(
                name,
                revision=commit,
                allow_patterns=patterns,
                ignore_patterns=["consolidated*"],  # the same weights again, in another form
                local_files_only=offline,
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            where, f"{spec} cannot be fetched ({cause})", "check name, commit, network and HF_TOKEN"
        ) from None
