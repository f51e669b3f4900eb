"""Where a model's files lie and what they are, told without torch at plan time."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.api.registry import shipped_models
from holdfast.errors import ModelError
from holdfast.nn.gguf import converted


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine: the spec it was asked for by, and its folder."""

    spec: str
    folder: Path

    def shards(self) -> list[Path]:
        """Give the safetensors files."""
        return sorted(self.folder.glob("*.safetensors"))

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
            if size <= 64 << 20:
                parts[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                stamp = f"{header(path)}/{size}/{path.stat().st_mtime_ns}"
                parts[path.name] = hashlib.sha256(stamp.encode()).hexdigest()
        return parts


def header(path: Path) -> bytes:
    """Read a safetensors header and check that the file is as long as it says."""
    where = str(path)
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError("the header is cut off")
            raw = file.read(length)
        entries = json.loads(raw)
        ends = [e["data_offsets"][1] for name, e in entries.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ModelError(
            where, f"not a whole safetensors file ({error})", "copy it again"
        ) from None
    if ends and 8 + length + max(ends) != size:
        raise ModelError(
            where,
            f"truncated: {size} bytes, its header says {8 + length + max(ends)}",
            "copy it again",
        )
    return raw


def resolve(spec: str, where: str = "model") -> ModelFiles:
    """Find a model's files: `world:base`, a folder, a GGUF file, or `org/name@COMMIT`.

    A GGUF file, and a model that a test bed makes out of one, is converted at first use.

    Raises:
        ModelError: nothing there, no config, weights that are not whole safetensors files, or a
            hub name without a commit.
    """
    shipped = shipped_models()
    if spec in shipped:
        given = shipped[spec]
        folder = given if isinstance(given, Path) else given(where)
    elif spec.partition(":")[0] in {name.partition(":")[0] for name in shipped}:
        raise ModelError(where, f"no shipped model '{spec}'", "known: " + ", ".join(shipped))
    elif Path(spec).is_dir():
        folder = Path(spec)
    elif spec.lower().endswith(".gguf"):
        folder = converted(Path(spec), where)
    else:
        folder = _from_hub(spec, where)
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        raise ModelError(
            where,
            f"{spec} holds an adapter, no whole model",
            "merge it into its base and save that",
        )
    if not (folder / "config.json").is_file():
        raise ModelError(where, f"no config.json in {spec}", "name a folder that holds a model")
    files = ModelFiles(spec, folder)
    if not files.shards():
        raise ModelError(where, f"no safetensors files in {spec}", "convert the weights first")
    for path in files.shards():
        header(path)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(where, f"no tokenizer.json in {spec}", "add the model's fast tokenizer")
    return files


def _from_hub(spec: str, where: str) -> Path:
    name, _, commit = spec.partition("@")
    if spec.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            where, f"no such model folder: {spec}", "give a folder, world:base or org/name@COMMIT"
        )
    if not commit:
        raise ModelError(where, f"{spec} names no commit", f"write {name}@COMMIT")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model"]
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    try:
        return Path(
            snapshot_download(
                name, revision=commit, allow_patterns=patterns, local_files_only=offline
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            where, f"{spec} cannot be fetched ({cause})", "check name, commit, network and HF_TOKEN"
        ) from None
