"""A folder's model without its weights: what it needs, and what the files hold of it.

The library renames, joins, splits and ties a checkpoint's tensors by rules of each architecture.
Here it applies them to a model on torch's meta device, which has shapes and no memory: the same
code that loads, so what is found out before anything is read is what loading would find.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from holdfast.api.lazy import torch
from holdfast.api.registry import shipped_models
from holdfast.disk import cache_folder, write_bytes
from holdfast.errors import LONGEST, ModelError, StoreError, one_line, without_secrets
from holdfast.nn.files import FLOATS, Entry, ModelFiles, config_of, header, some, weights_in
from holdfast.nn.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel
    from transformers.utils.loading_report import LoadStateDictInfo


def skeleton(folder: Path, auto: str = "AutoModelForCausalLM") -> PreTrainedModel:
    """Build a folder's model on the meta device, tied as its config says.

    Raises:
        ModelError: the config is none of a model that the class `auto` of transformers knows.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"), quiet():
            return getattr(transformers, auto).from_config(config, trust_remote_code=False)
    except Exception as error:  # a config may be wrong in any way
        raise ModelError(
            str(folder), f"the config makes no model ({_cause(error)})", "check config.json"
        ) from None


def _cause(error: BaseException) -> str:
    """Give an exception's words on one line; where the first only announces, the second too."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return without_secrets(lines[1])[:LONGEST]
    return one_line(error)


def check_names(
    files: ModelFiles, where: str = "model", auto: str = "AutoModelForCausalLM"
) -> None:
    """Refuse weights that are not those of the config: before any of them is read.

    Every tensor of the model must be in the files, in its shape, and every tensor of the files in
    the model, but for those that the library says an architecture may lack or leave unused. The
    models of this package are known to fit. That a folder's do is kept in the cache folder, by what
    the files are and the library's version, so that later plans need not import it.

    Raises:
        ModelError: in one line, with how many do not fit and the first of them.
    """
    if files.spec in shipped_models():
        return
    known = json.dumps([auto, files.identity(), version("transformers")], sort_keys=True)
    name = hashlib.sha256(known.encode()).hexdigest()
    kept = cache_folder() / "fits" / name
    if name in _FIT or kept.is_file():
        return
    entries = {name: one for path in files.shards() for name, one in header(path).items()}
    _check_depth(files.folder, len(entries))
    model = skeleton(files.folder, auto)
    own, (parts, _) = model.state_dict(), _sources(model, entries)
    integers = [
        name
        for place, names in parts.items()
        if own[place].is_floating_point()
        for name in names
        if entries[name].dtype not in FLOATS
    ]
    with quiet():
        info = _put(model, _holes(entries), "meta")
        model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
        model._adjust_missing_and_unexpected_keys(info)
    conversion = {"conversion_errors": info.conversion_errors, "integers": integers}
    refuse(info.to_dict() | conversion, where)
    _FIT.add(name)
    with suppress(StoreError):  # a folder that cannot be written costs the next plan a second
        write_bytes(kept, b"")


def _check_depth(folder: Path, tensors: int) -> None:
    """Refuse more layers than there are tensors: building them alone would take for ever.

    Raises:
        ModelError: the config says that there are more.
    """
    config = config_of(folder)
    nested = config.get("text_config")
    for said in (config, nested if isinstance(nested, dict) else {}):
        layers = said.get("num_hidden_layers")
        if isinstance(layers, int) and layers > tensors:
            what = f"the config has {layers} layers, the weights {tensors} tensors"
            raise ModelError(str(folder), what, "check config.json")


_FIT: set[str] = set()
"""The hashes of what was found to fit."""


_FAULTS = {
    "missing_keys": "missing",
    "unexpected_keys": "unknown to the config",
    "mismatched_keys": "of another shape",
    "conversion_errors": "that cannot be converted",
    "error_msgs": "that cannot be read",
    "integers": "stored as integers",
}
"""What the library's loading info calls a fault (the last is ours), and what is said of it."""


def refuse(found: Mapping[str, Iterable[Any]], where: str) -> None:
    """Refuse what loading found: tensors that are missing, left over, or of another shape.

    Args:
        found: names by fault, as the library's loading info has them.

    Raises:
        ModelError: in one line, with how many do not fit and the first of them.
    """
    told = []
    for fault, what in _FAULTS.items():
        names = list(found.get(fault, ()))
        if fault == "mismatched_keys":
            names = [f"{name} {tuple(held)} for {tuple(own)}" for name, held, own in names]
        if names:
            told.append(f"{len(names)} {what} ({some(names)})")
    if told:
        raise ModelError(
            where,
            f"the weights are not those of the config: {', '.join(told)}",
            "copy both again, from one checkpoint",
        )


def _holes(entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Give tensors of the shapes that a header says, without memory."""
    return {name: torch.empty(one.shape, device="meta") for name, one in entries.items()}


def _put(model: PreTrainedModel, held: Mapping[str, Any], device: str) -> LoadStateDictInfo:
    """Have the library put tensors of a checkpoint into a model, as stored, on a device."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    rules: Any = get_model_conversion_mapping(model)
    how = LoadStateDictConfig(
        device_map={"": device},
        dtype_plan={"*": None},  # no tensor is cast
        weight_mapping=rules,
    )
    info, _ = convert_and_load_state_dict_in_model(model, dict(held), how)
    return info


def _sources(
    model: PreTrainedModel, names: Iterable[str]
) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Give the files' tensors that each of a model's is made of, by its name.

    As the library does: the first parameter stands for all that a joined tensor is split into.
    Also gives the names whose values are not those of one tensor as it is stored.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    own, prefix = model.state_dict(), model.base_model_prefix
    parts: dict[str, tuple[str, ...]] = {}
    converted: set[str] = set()
    for name in sorted(names, key=dot_natural_key):
        place, pattern = rename_source_key(name, renamings, converters, prefix, own)
        if place not in own and name in own:
            place, pattern = rename_source_key(name, [], [], prefix, own)
        if place in own:
            parts[place] = (*parts.get(place, ()), name)
            if pattern is not None:
                converted.add(place)
    return parts, converted


class Checkpoint(Mapping[str, "Tensor"]):
    """The tensors of a folder's model by parameter name, each read when asked for, as stored.

    What the library renames, joins or splits when it loads is so here too. A tied name gives what
    it is tied to.

    Raises:
        ModelError: the folder's config makes no model.
    """

    def __init__(self, folder: Path) -> None:
        headers = {path: header(path) for path in weights_in(folder)}
        self._files = {name: path for path, entries in headers.items() for name in entries}
        self._model = skeleton(folder)
        names = [name for name, _ in self._model.named_parameters()]  # while it is tied
        tied = self._model.all_tied_weights_keys
        self._tied = {source: name for name, source in tied.items()} | tied
        self._parts, converted = _sources(self._model, self._files)
        self._converted: dict[str, str] = {}
        for place in converted:
            of = {name: headers[self._files[name]][name] for name in self._parts[place]}
            with quiet():
                missing = _put(self._model, _holes(of), "meta").missing_keys
            made = (name for name in self._model.state_dict() if name not in missing)
            self._converted |= dict.fromkeys(made, place)
        self._last: tuple[str, dict[str, Tensor]] = ("", {})
        self._names = [name for name in names if name in self]

    def __getitem__(self, name: str) -> Tensor:
        if not self._has(name):
            name = self._tied[name]
        place = self._converted.get(name)
        if place is None:
            first = self._parts[name][0]
            with safe_open(self._files[first], framework="pt") as file:
                return file.get_tensor(first)
        if self._last[0] != place:  # what was one tensor is asked for piece by piece
            self._last = (place, self._convert(self._parts[place]))
        return self._last[1][name]

    def _convert(self, parts: tuple[str, ...]) -> dict[str, Tensor]:
        """Let the library make parameters of a few tensors, and take them out of its model."""
        paths = {self._files[name] for name in parts}
        with ExitStack() as stack:
            opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in paths}
            slices = {name: opened[self._files[name]].get_slice(name) for name in parts}
            with quiet():
                info = _put(self._model, slices, "cpu")
        made = {name: p.detach() for name, p in self._model.named_parameters() if not p.is_meta}
        for name, value in made.items():
            module, _, last = name.rpartition(".")
            hole = torch.nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=False)
            setattr(self._model.get_submodule(module), last, hole)
        refuse({**info.to_dict(), "missing_keys": ()}, str(next(iter(paths))))
        return made

    def _has(self, name: object) -> bool:
        return name in self._converted or name in self._parts

    def __contains__(self, name: object) -> bool:
        return self._has(name) or self._has(self._tied.get(str(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
