"""`holdfast run`: run a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.study.file import Study

Seeds = Annotated[
    str | None,
    typer.Option(
        "--seeds", help="Some of the study's seeds, as 0,1,2: `join` puts parts together."
    ),
]


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
    from holdfast.study.file import load_study

    said = load_study(study)
    if seeds is not None:
        said = said.with_(seeds=some_seeds(seeds, said))
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


def some_seeds(text: str, study: Study) -> tuple[int, ...]:
    """Read some of a study's seeds, in the study's order.

    Raises:
        ConfigError: it is no list of numbers, or one is none of the study's.
    """
    known = ", ".join(map(str, study.seeds))
    try:
        wanted = {int(part) for part in text.split(",")}
    except ValueError:
        raise ConfigError("--seeds", f"'{text}' is no list of seeds", "write it as 0,1,2") from None
    if wanted - {*study.seeds}:
        missing = ", ".join(map(str, sorted(wanted - {*study.seeds})))
        raise ConfigError("--seeds", f"the study has no seed {missing}", f"its seeds: {known}")
    return tuple(seed for seed in study.seeds if seed in wanted)
