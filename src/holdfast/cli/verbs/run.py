"""`holdfast run`: run a study."""

from __future__ import annotations

from pathlib import Path

from holdfast.cli.conduct import conduct
from holdfast.cli.device import Device
from holdfast.cli.folders import outside
from holdfast.cli.given import study_given
from holdfast.cli.options import (
    KeepWeights,
    Report,
    Seeds,
    ShowText,
    StoreFolder,
    StudyFile,
    Workers,
    WorkerThreads,
)


def run(
    study: StudyFile,
    store: StoreFolder = Path("runs"),
    out: Report = None,
    workers: Workers = None,
    threads: WorkerThreads = 1,
    device: Device = "cpu",
    keep_weights: KeepWeights = False,
    show_text: ShowText = False,
    seeds: Seeds = None,
) -> int:
    """Run a study and write its report; the same command again continues or does nothing."""
    said = study_given(study, seeds)
    outside(out, store, store / said.name)
    return conduct(
        said,
        store,
        out,
        show_text=show_text,
        workers=workers,
        threads=threads,
        device=device,
        keep_weights=keep_weights,
    )
