"""`holdfast run`: run a study."""

from __future__ import annotations

from pathlib import Path

from holdfast.cli.conduct import conduct
from holdfast.cli.device import Device
from holdfast.cli.folders import outside
from holdfast.cli.options import (
    KeepWeights,
    Report,
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
) -> int:
    """Run a study and write its report; the same command again continues or does nothing."""
    from holdfast.study.file import load_study

    said = load_study(study)
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
