"""`holdfast rescore`: have other judges read the answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.conduct import conduct
from holdfast.cli.device import Device
from holdfast.cli.folders import outside
from holdfast.cli.options import ShowText, StoreFolder
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.api import Method


def rescore(
    study: Annotated[
        Path,
        typer.Argument(help="A study file (YAML), or a file of answers: what `generate` wrote."),
    ],
    judge: Annotated[
        list[str],
        typer.Option("--judge", help="A judge, as in a study file; repeat. The first leads."),
    ],
    store: StoreFolder = Path("runs"),
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of the report, or of the verdicts. [default: STORE/NAME-JUDGES]"
        ),
    ] = None,
    show_text: ShowText = False,
    device: Device = "cpu",
) -> int:
    """Have other judges read the answers that are there: a report of a study, or of a file
    each judge's verdicts and how far they agree.
    """
    from holdfast.api.fields import parse_yaml
    from holdfast.api.registry import make
    from holdfast.cli.panel import answers_in, rescore_file

    given = tuple(parse_yaml(text, "--judge") for text in judge)
    judges = [make("judge", one, "--judge") for one in given]
    if answers_in(study):
        if out is None:
            raise ConfigError("--out", "no folder for the verdicts", "give --out FOLDER")
        return rescore_file(study, judges, out, device)
    from holdfast.study.file import load_study

    names = [one.name() for one in judges]
    said = load_study(study)
    if not any(_grades(one) for one in judges):  # a graded set keeps the study's own grader
        own_judges = enumerate(said.judges)
        given += tuple(
            one for i, one in own_judges if _grades(make("judge", one, f"study.judges[{i}]"))
        )
    changed = said.with_(judges=given)
    own = store / f"{changed.name}-{'-'.join(names)}"
    outside(out, store, own)
    return conduct(
        changed,
        store,
        out or own,
        show_text=show_text,
        workers=1,
        device=device,
        only_judge=True,
    )


def _grades(judge: Method) -> bool:
    """Say whether a judge grades answers right or wrong."""
    from holdfast.api import Judge

    return isinstance(judge, Judge) and judge.tells_right
