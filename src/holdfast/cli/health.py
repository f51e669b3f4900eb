"""What `holdfast doctor` looks at: the machine, and what a study needs. Nothing is downloaded.

Whether a token or a key is there is said; what it is never leaves the environment.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast import __version__
from holdfast.errors import ConfigError, DataError, HoldfastError, ModelError, install

if TYPE_CHECKING:
    from holdfast.api import Judge, Source
    from holdfast.study.file import Study

GIB = 2**30
SECONDS = 10.0
"""How long the hub may take to say whether it has a model."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that was looked at: what it is, how it is, and what is wrong with it, if so."""

    what: str
    how: str
    fault: HoldfastError | None = None

    def line(self) -> str:
        """Say it in a line."""
        if self.fault is None:
            return f"  {self.what}: {self.how}"
        return f"  {self.what}: missing: {self.fault.what}; {self.fault.todo}"


# ---- the machine


def machine(store: Path) -> Iterator[Seen]:
    """Look at Python, libraries, devices, memory, disk, extras and tokens."""
    from holdfast.api import environment

    about = environment()
    yield Seen("holdfast", f"{__version__}, Python {about['python']} at {sys.executable}")
    yield Seen("processor", f"{about['processor']}, {about['cores']} cores, {about['system']}")
    for name, version in about["versions"].items():
        if name == "holdfast":
            continue
        fault = None
        if version == "not installed":
            todo = "install holdfast with its needs"
            fault = ConfigError("doctor", f"{name} is not installed", todo)
        yield Seen(name, version, fault)
    yield from _devices(about["versions"]["torch"] != "not installed")
    yield from _disks(store)
    yield from _extras()
    yield from _tokens()


def _devices(torch_there: bool) -> Iterator[Seen]:
    from holdfast.nn.memory import available

    free = available()
    yield Seen("memory", "not told" if free is None else f"{free / GIB:.3g} GiB free")
    if not torch_there:
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(count):
        left, whole = torch.cuda.mem_get_info(number)
        told = f"{torch.cuda.get_device_name(number)}, {left / GIB:.3g} of {whole / GIB:.3g} GiB"
        yield Seen(f"cuda:{number}", f"{told} free")
    if not count:
        yield Seen("GPU", "none; everything runs on the processor")


def _disks(store: Path) -> Iterator[Seen]:
    from holdfast.disk import cache_folder

    for what, folder in (("store", store), ("cache", cache_folder())):
        there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        try:
            free = shutil.disk_usage(there).free
        except OSError:
            yield Seen(f"disk at the {what}", f"{folder}: not told")
            continue
        yield Seen(f"disk at the {what}", f"{folder}: {free / GIB:.3g} GiB free")


def _extras() -> Iterator[Seen]:
    """Look at what each extra of this package installs, as its metadata name it."""
    needs: dict[str, list[str]] = {}
    for need in metadata.requires("holdfast") or ():
        if found := re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", need):
            needs.setdefault(found[2], []).append(found[1])
    for extra, names in needs.items():
        if extra == "dev":
            continue
        lacking = [name for name in names if _version(name) is None]
        how = f"install it where needed: {install(extra)}" if lacking else "there"
        yield Seen(f"extra {extra} ({', '.join(names)})", how)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _tokens() -> Iterator[Seen]:
    from huggingface_hub import constants, get_token

    yield Seen("token of the hub", "there" if get_token() else "none (gated sets need HF_TOKEN)")
    key = "there" if os.environ.get("OPENAI_API_KEY", "").strip() else "none"
    yield Seen("key OPENAI_API_KEY", key)
    off = constants.HF_HUB_OFFLINE
    yield Seen("network", "not asked (HF_HUB_OFFLINE is set)" if off else "may be used")


# ---- everything there is


def catalogue() -> Iterator[Seen]:
    """Tell the shipped models, and every source and judge, with what each needs; offline."""
    from holdfast.api.registry import KINDS, about, find, names
    from holdfast.data.published import Published
    from holdfast.nn.files import resolve

    for spec in ("world:base", "world:instruct"):
        try:
            yield Seen(spec, str(resolve(spec).folder))
        except ModelError as error:
            yield Seen(spec, "", error)
    for kind in KINDS:
        for name in names(kind):
            find(kind, name)
    for name in names("source"):
        cls = find("source", name)
        if issubclass(cls, Published):
            gated = "gated: needs HF_TOKEN and consent; " if cls.place.gated else ""
            yield Seen(f"source {name}", f"{gated}{cls.place.link}, {cls.size}")
        else:
            yield Seen(f"source {name}", about("source", name))
    for name in names("judge"):
        fields = find("judge", name).model_fields
        need = next((told for field, told in NEEDS.items() if field in fields), "needs nothing")
        yield Seen(f"judge {name}", need)


NEEDS = {
    "model": "needs weights on this machine (docs/judges.md)",
    "endpoint": "needs a server with an OpenAI-compatible API",
}
"""What a judge with such a field needs."""


# ---- what a study needs


def needed(study: Study) -> Iterator[Seen]:
    """Look at each model, source and judge of a study; nothing is fetched.

    Raises:
        ConfigError: a part of the study cannot be made.
    """
    from holdfast.api import Judge, Source
    from holdfast.api.registry import make

    for name, entry in study.models.items():
        yield _model(name, entry.path)
    for i, data in enumerate(study.sources):
        source = make("source", data, f"study.sources[{i}]")
        assert isinstance(source, Source)
        yield _source(source, f"study.sources[{i}].{source.name()}")
    for i, data in enumerate(study.judges):
        judge = make("judge", data, f"study.judges[{i}]")
        assert isinstance(judge, Judge)
        yield from _judge(judge, f"study.judges[{i}].{judge.name()}")


def _model(name: str, spec: str) -> Seen:
    from holdfast.nn.files import local_only, resolve

    what, where = f"model {name}", f"study.models.{name}.path"
    try:
        with local_only():
            return Seen(what, str(resolve(spec, where).folder))
    except ModelError as error:
        org, _, commit = spec.partition("@")
        if org.count("/") != 1 or not commit or org.startswith((".", "/", "~")):
            return Seen(what, "", error)
    trouble = _kept_from(org, commit)
    if trouble is None:
        return Seen(what, "not fetched yet; the hub has it and lets you have it")
    told = ModelError(where, f"{org} is not on this machine, and {trouble[0]}", trouble[1])
    return Seen(what, "", told)


def _kept_from(name: str, commit: str) -> tuple[str, str] | None:
    """Say what keeps a model of the hub from being fetched, and what to do; None: nothing."""
    from huggingface_hub import HfApi, constants, errors

    folder = "or copy its folder here and name that"
    if constants.HF_HUB_OFFLINE:
        return "there is no network (HF_HUB_OFFLINE is set)", f"unset it, {folder}"
    try:
        HfApi().model_info(name, revision=commit, timeout=SECONDS)
        HfApi().auth_check(name)
    except errors.GatedRepoError:
        link = f"https://huggingface.co/{name}"
        return "it is gated", f"accept its terms at {link} and set HF_TOKEN to your token"
    except errors.RevisionNotFoundError:
        return f"the hub has no commit {commit[:12]} of it", "name another"
    except errors.RepositoryNotFoundError:
        return "it is not on the hub, or not for this account", f"check the name, {folder}"
    except Exception as error:  # the libraries below raise some thirty classes
        return f"the hub cannot be reached ({type(error).__name__})", f"check the network, {folder}"
    return None


def _source(source: Source, where: str) -> Seen:
    from holdfast.data.hub import reach
    from holdfast.data.published import NEWEST, Published

    what = f"source {source.name()}"
    if not isinstance(source, Published) or source.folder is not None:
        if not source.at_hand():
            todo = "run `holdfast plan` once where there is a network"
            return Seen(what, "", DataError(where, "its rows are not on this machine", todo))
        try:
            return Seen(what, f"{len(source.examples()):,} rows")
        except HoldfastError as error:
            return Seen(what, "", error)
    if source.at_hand():
        return Seen(what, "fetched before")
    commit = source.revision or source.commit or NEWEST
    trouble = reach(source.place, None if commit == NEWEST else commit)
    if trouble is None:
        return Seen(what, f"not fetched yet; {source.place.link} can be reached")
    return Seen(what, "", DataError(where, f"not fetched before, and {trouble[0]}", trouble[1]))


def _judge(judge: Judge, where: str) -> Iterator[Seen]:
    from holdfast.endpoint import Endpoint, reach
    from holdfast.nn.files import local_only

    what = f"judge {judge.name()}"
    try:
        with local_only():
            judge.check()
    except HoldfastError as error:
        yield Seen(what, "", type(error)(where, error.what, error.todo))
        return
    endpoint = getattr(judge, "endpoint", None)
    if not isinstance(endpoint, Endpoint):
        yield Seen(what, "ready")
        return
    if endpoint.key_env is not None:
        there = bool(os.environ.get(endpoint.key_env, "").strip())
        yield Seen(f"key {endpoint.key_env}", "there" if there else "none (none is needed)")
    trouble = reach(endpoint)
    if trouble is None:
        yield Seen(what, f"{endpoint.base_url} answers")
    else:
        yield Seen(what, "", ConfigError(where, *trouble))
