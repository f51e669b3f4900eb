"""What the steps of one process share: the plan, the store, the model loaded last."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from holdfast.api import environment, set_threads
from holdfast.engine.provenance import git_commit, peak_mib
from holdfast.engine.store import Store
from holdfast.errors import ModelError
from holdfast.study.keys import key
from holdfast.study.nodes import Released, Start
from holdfast.study.plan import Plan

Progress = Callable[[str, int, int], None]


class Session:
    """Gives steps their models and publishes what they make, one step at a time.

    The model loaded last is kept while its weights are as they were: asking the released model
    and attacking it costs one load.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        *,
        threads: int = 1,
        device: str = "cpu",
        keep_weights: bool = False,
        progress: Progress | None = None,
    ) -> None:
        set_threads(threads)
        _quiet()
        self.plan, self.store = plan, store
        self.threads, self.device, self.keep_weights = threads, device, keep_weights
        self.progress = progress or (lambda *_: None)
        self._loaded: tuple[Path, Any, Any] | None = None

    def take(self, released: Released, *, keep: bool = False) -> tuple[Any, Any]:
        """Give a model whose weights are those on disk; forget it unless it stays as it is."""
        from holdfast import nn

        folder = folder_of(released, self.store)
        if released.last is None:
            _unchanged(released.start)
        if self._loaded is None or self._loaded[0] != folder:
            self._loaded = None  # the last one's memory goes first
            source = folder if released.last else released.start.files
            self._loaded = (folder, *nn.load(source, device=self.device))
        _, model, tokenizer = self._loaded
        if not keep:
            self._loaded = None
        return model, tokenizer

    def forget(self) -> None:
        """Let go of the model loaded last."""
        self._loaded = None

    def sources(self, needs: Sequence[str]) -> dict[str, Any]:
        """Give the other weights a method needs, read when it asks for them."""
        from holdfast import nn

        if "original" not in needs or self.plan.original is None:
            return {}
        return {"original": nn.tensors(self.plan.original.files.folder)}

    def chunks(
        self,
        key: str,
        rows: Sequence[Any],
        make: Callable[[Sequence[Any]], list[dict[str, Any]]],
        label: str,
    ) -> list[dict[str, Any]]:
        """Make a step's rows chunk by chunk, each kept; one chunk is the artefact itself."""
        size = self.plan.study.chunk
        if len(rows) <= size:
            return make(rows)
        done: list[dict[str, Any]] = []
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            name = f"rows-{size}-{first // size:05d}.jsonl"
            done += self.store.chunk(key, name, lambda part=part: make(part))
            self.progress(label, first + len(part), len(rows))
        return done

    def publish(
        self,
        kind: str,
        key: str,
        config: Mapping[str, Any],
        inputs: Sequence[str],
        result: Mapping[str, Any],
        began: float,
        fill: Callable[[Path], None],
    ) -> None:
        """Publish what `fill` writes into a folder, with how it was made."""
        manifest = {
            "config": dict(config),
            "inputs": list(inputs),
            "result": dict(result),
            "environment": self._environment,
            "device": self.device,
            "git": git_commit(),
            "seconds": round(time.monotonic() - began, 3),
            "peak_mib": peak_mib(),
        }
        self.store.publish(kind, key, manifest, fill)

    @cached_property
    def _environment(self) -> dict[str, Any]:
        return environment(self.threads)


def folder_of(released: Released, store: Store) -> Path:
    """Give where a released model's checkpoint lies; a hardened one is whole.

    Raises:
        StoreError: a file of it is not as it was written.
    """
    if released.last is None:
        return released.start.files.folder
    return store.checked("defend", released.last.key)


def _unchanged(start: Start) -> None:
    """Refuse a start model whose files are not those the plan was made with."""
    if key("model", files=start.files.identity()) != start.key:
        raise ModelError(
            f"model '{start.name}'", "its files changed since the plan was made", "run again"
        )


def _quiet() -> None:
    """Keep the libraries' own bars and notes off the screen; errors still show."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
