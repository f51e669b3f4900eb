"""`holdfast rescore`: have other judges read the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.conduct import conduct
from holdfast.cli.device import Device
from holdfast.cli.options import Report, ShowText, StoreFolder, StudyFile


def rescore(
    study: StudyFile,
    judge: Annotated[
        list[str],
        typer.Option("--judge", help="A judge, as in a study file; repeat. The first leads."),
    ],
    store: StoreFolder = Path("runs"),
    out: Report = None,
    show_text: ShowText = False,
    device: Device = "cpu",
) -> int:
    """Have other judges read the answers that are there, and write a report of theirs."""
    from holdfast.api.fields import parse_yaml
    from holdfast.api.registry import make
    from holdfast.study.file import load_study

    given = tuple(parse_yaml(text, "--judge") for text in judge)
    names = [make("judge", one, "--judge").name() for one in given]
    changed = load_study(study).with_(judges=given)
    return conduct(
        changed,
        store,
        out or store / f"{changed.name}-{'-'.join(names)}",
        show_text=show_text,
        workers=1,
        device=device,
        only_judge=True,
    )
