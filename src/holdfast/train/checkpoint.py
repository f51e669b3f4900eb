"""What an interrupted run continues from: its newest state, and whose it is."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from holdfast.disk import file_hash, intact, seal, whole_file, whole_folder
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.nn.passes import FlopMeter
    from holdfast.train.optimiser import Optimiser

log = logging.getLogger(__name__)

RUN = "run.json"
"""Beside the checkpoints: everything that decides what the run will give."""
STATE = "state.safetensors"
"""In a checkpoint: weights, optimiser and random numbers."""


class Checkpoints:
    """The newest state of a run, in safetensors and JSON, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _kept(self) -> list[tuple[int, Path]]:
        if not self._folder.is_dir():
            return []
        return sorted(
            (int(path.name.removeprefix("step-")), path)
            for path in self._folder.iterdir()
            if re.fullmatch("step-[0-9]{8}", path.name)
        )

    def save(
        self, step: int, params: Mapping[str, Tensor], optimiser: Optimiser, meter: FlopMeter
    ) -> None:
        """Write the state after `step` steps beside the older one, then drop the older one.

        Raises:
            StoreError: it cannot be written; the older one is still there.
        """
        state: dict[str, Tensor] = {"rng": torch.get_rng_state(), **optimiser.state()}
        for name, p in params.items():
            state[f"param/{name}"] = p.detach().contiguous()
        target = self._folder / f"step-{step:08d}"
        # One of that name may stand there, of a run that started over before a point it had passed.
        older = [path for _, path in self._kept() if path != target]
        with whole_folder(target, self._folder / f"tmp-{os.getpid()}", replace=True) as folder:
            save_file(state, folder / STATE)
            about = {"step": step, "flops": meter.total, "hash": file_hash(folder / STATE)}
            (folder / "state.json").write_text(json.dumps(seal(about)))
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def load(
        self,
        params: Mapping[str, Tensor],
        optimiser: Optimiser,
        meter: FlopMeter,
        latest: int,
    ) -> int:
        """Restore the newest state not past `latest` steps; give its step, or 0.

        A damaged one is removed, and the one before it taken.
        """
        if self._folder.is_dir():
            for path in self._folder.glob("tmp-*"):
                shutil.rmtree(path, ignore_errors=True)
        for step, path in reversed(self._kept()):
            if step > latest:
                continue
            try:
                about = _about(path, step)
                state = load_file(path / STATE)
            except (OSError, ValueError, SafetensorError):
                log.warning("%s: a checkpoint is damaged; it is removed", path)
                shutil.rmtree(path, ignore_errors=True)
                continue
            with torch.no_grad():
                for name, p in params.items():
                    p.copy_(state[f"param/{name}"])
                optimiser.restore(state, step)
            torch.set_rng_state(state["rng"])
            meter.total = about["flops"]
            return step
        return 0


def _about(path: Path, step: int) -> dict[str, Any]:
    """Give what a checkpoint says of itself; one of an older version holds no hash.

    Raises:
        ValueError: it is not as it was written.
    """
    about = _read(path / "state.json")
    known = about.get("hash")
    if known is not None and not (intact(about) and known == file_hash(path / STATE)):
        raise ValueError("changed")
    if about.get("step") != step or not isinstance(about.get("flops"), int | float):
        raise ValueError("of another step")
    return about


def claim(work: Path, run: Mapping[str, Any], where: str) -> None:
    """Let a run continue only from its own checkpoints: `work` says whose they are.

    Args:
        work: the folder of the run's checkpoints; it is made.
        run: everything that decides what the run will give, as plain JSON data.
        where: what the error begins with.

    Raises:
        ConfigError: the checkpoints in `work` belong to another run, or say of none.
    """
    path, own = work / RUN, json.dumps(run, sort_keys=True)
    if any(work.glob("*/step-*")):
        there = _read(path)
        apart = [name for name in run if there.get(name) != json.loads(own)[name]]
        if apart:
            what = f"a run that differs in {', '.join(apart)}"
            if not there:
                what = "checkpoints that do not say whose they are"
            raise ConfigError(
                where,
                f"{work} holds {what}",
                "give the same again to continue it, or remove that folder",
            )
    with whole_file(path) as part:
        part.write_text(own, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """Give what a run wrote of itself; nothing where that cannot be read."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
