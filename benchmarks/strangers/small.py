"""The small world that is broken: the toy of the tests, its model, a study and a finished store."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.strangers.ending import ran
from tests.studies import toy

TABLES = ("rows.csv", "lineups.csv", "costs.csv", "free.csv")
"""The tables of a run that must be the same however often it was broken or killed."""


@dataclass(frozen=True, slots=True)
class Small:
    """A folder with the toy's plugin, model, study and the store of one finished run."""

    folder: Path
    seconds: float = 0.0
    """That the clean run took."""

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.folder / "model"

    @property
    def study(self) -> Path:
        """The study's file."""
        return self.folder / "toy.json"

    @property
    def store(self) -> Path:
        """A finished run's store; its report is in `toy`."""
        return self.folder / "runs"

    def run(self, store: Path, workers: int = 1) -> list[str]:
        """Give the words that run the study."""
        return ["run", str(self.study), "--store", str(store), "--workers", str(workers)]

    def tables(self, store: Path) -> dict[str, bytes]:
        """Give the tables of a store's report, as far as they are there."""
        found = [store / "toy" / name for name in TABLES]
        return {path.name: path.read_bytes() for path in found if path.exists()}


def made(folder: Path) -> Small:
    """Make the small world in an empty folder, load every library, and finish its run once.

    Raises:
        RuntimeError: the run does not end well, so that nothing could be told from a broken one.
    """
    small = Small(folder)
    toy.install(folder / "plugin")
    sys.path.insert(0, str(folder / "plugin"))
    os.environ["HOLDFAST_CACHE"] = str(folder / "cache")
    os.environ["HF_HUB_OFFLINE"] = "1"
    tempfile.tempdir = str(folder)
    toy.model(small.model)
    toy.write(small.study, study(small))
    _load()
    began = time.monotonic()
    ended = ran(small.run(small.store), limit=600)
    if ended.code:
        raise RuntimeError(f"the clean run ended with {ended.code}: {ended.err}")
    return replace(small, seconds=time.monotonic() - began)


def study(small: Small) -> dict[str, Any]:
    """Give the study as plain data."""
    return toy.study(small.model)


def answers(n: int, text: str) -> list[dict[str, Any]]:
    """Give rows as `generate` writes them, all of whose words are `text`."""
    row = {"prompt": text, "response": text, "system": None, "finish_reason": "eos"}
    return [{"uid": str(i), **row} for i in range(n)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    """Give rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _load() -> None:
    """Import what commands import, so that no command's time or kill is that of an import."""
    import pyarrow.csv
    import pyarrow.parquet
    import torch
    import transformers

    from holdfast import evaluate, nn, train
    from holdfast.engine import judging, runner
    from holdfast.report import files

    torch.set_num_threads(1)
    for module in (pyarrow.csv, pyarrow.parquet, transformers, evaluate, train, judging, runner):
        assert module.__name__
    assert files.__name__
    assert nn.load
