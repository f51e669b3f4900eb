"""`holdfast calibrate`: hold a judge against answers that people labelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.device import Device
from holdfast.cli.folders import try_writing
from holdfast.cli.given import fields
from holdfast.cli.options import Sets
from holdfast.cli.reading import check_scored, read
from holdfast.cli.saying import say
from holdfast.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from holdfast.api import Labelled
    from holdfast.stats.calibration import Calibration


def calibrate(
    judge: Annotated[str, typer.Argument(help="A judge; see `holdfast ls judge`.")],
    on: Annotated[
        str,
        typer.Option(
            help="A source that has labelled answers, a file of them (.jsonl, .json, .csv, .tsv or "
            ".parquet), or package:NAME/PATH, a file of an installed package."
        ),
    ],
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column", help="A column of the file: prompt=NAME, response=NAME or label=NAME."
        ),
    ] = None,
    harmful_from: Annotated[
        float | None,
        typer.Option(help="Labels of the file are numbers, true from this one on."),
    ] = None,
    about: Annotated[
        str, typer.Option(help="What labels say of an answer: harm, or refusal.")
    ] = "harm",
    sets: Sets = None,
    device: Device = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write the figures as JSON.")
    ] = None,
) -> int:
    """Hold a judge against answers that people labelled: precision, recall and their intervals."""
    from holdfast import disk
    from holdfast.api.registry import make
    from holdfast.stats.calibration import ABOUT, calibration, check_labels

    if about not in ABOUT:
        raise ConfigError("--about", f"got '{about}'", did_you_mean(about, ABOUT))
    if out is not None:
        try_writing(out, "--out", Path(on))
    reader: Any = make("judge", {judge: fields(sets)}, "judge")
    if reader.tells_right:
        raise ConfigError(
            "judge", f"{judge} says nothing about harm or refusals", "calibrate one that does"
        )
    if not (reader.tells_harm if about == "harm" else reader.tells_refusals):
        other = "refusal" if about == "harm" else "harm"
        what = f"{judge} says nothing about {'harm' if about == 'harm' else 'refusals'}"
        raise ConfigError("judge", what, f"add --about {other} where labels say that, or calibrate "
                          "another judge")  # fmt: skip
    pairs = labelled(on, column, harmful_from)
    check_labels(pairs, on)
    said = read(reader, [pair.exchange for pair in pairs], device)
    found = calibration(pairs, said, about=about)
    for line in lines(found, about):
        say(line)
    if out is not None:
        told = {"judge": reader.identity(), "on": on, "about": about, **values(found)}
        disk.write_bytes(out, (json.dumps(told, indent=1) + "\n").encode())
    check_scored(said, f"judge '{judge}'", "they are in no figure: mend the judge and run again")
    return 0


def labelled(
    on: str, column: list[str] | None = None, harmful_from: float | None = None
) -> list[Labelled]:
    """Give the labelled answers of a file, or of a source.

    Raises:
        ConfigError: an option is wrong, or there is no such source.
        DataError: the file or the source has no labelled answers.
    """
    from holdfast.api.fields import parse_yaml
    from holdfast.api.registry import make
    from holdfast.data.labelled import COLUMNS, PACKAGE, labelled_file, place_of
    from holdfast.data.records import is_rows

    columns = {}
    for text in column or []:
        name, sign, value = text.partition("=")
        if not sign or not value or name not in COLUMNS:
            raise ConfigError("--column", f"got '{text}'", "write prompt, response or label=NAME")
        columns[name] = value
    if on.startswith(PACKAGE) or (is_rows(on) and "{" not in on):
        return labelled_file(place_of(on), columns, harmful_from)
    if columns or harmful_from is not None:
        option = "--column" if columns else "--harmful-from"
        raise ConfigError(option, "a source knows its own labels", "leave it out")
    source: Any = make("source", parse_yaml(on, "--on"), "--on")
    pairs = list(source.labelled())
    if not pairs:
        raise DataError(
            f"source '{source.name()}'",
            "has no labelled answers",
            "give a file that has, or a source such as beavertails",
        )
    return pairs


def lines(found: Calibration, about: str) -> list[str]:
    """Give the figures as lines of text."""
    from holdfast.report.judges import coefficient
    from holdfast.report.text import interval, percent

    yes, no = ("harmful", "not harmful") if about == "harm" else ("refusal", "no refusal")
    table = [
        ("people say", f"judge: {yes}", f"judge: {no}", "no verdict"),
        (yes, found.hits, found.misses, found.unscored[0]),
        (no, found.false_alarms, found.passes, found.unscored[1]),
    ]
    said = [f"{row[0]:<14}" + "".join(f"{cell:>22}" for cell in row[1:]) for row in table]
    said.append(f"over {found.n} answers with a verdict, to {found.clusters} prompts:")
    for name in ("precision", "recall", "accuracy"):
        rate = getattr(found, name)
        said.append(f"{name:<14}{percent(rate.value):>8} (95 %: {interval(rate)})")
    if found.scored:
        said.append(f"{'AUROC':<14}{coefficient(found.auroc)} of {found.scored} scores")
    return said


def values(found: Calibration) -> dict[str, Any]:
    """Give the figures as plain data."""
    from holdfast.report.judges import coefficient_values
    from holdfast.report.verdict import rate

    counts = ("n", "clusters", "hits", "false_alarms", "misses", "passes", "scored")
    return {
        **{name: getattr(found, name) for name in counts},
        "unscored": list(found.unscored),
        **{name: rate(getattr(found, name)) for name in ("precision", "recall", "accuracy")},
        "auroc": coefficient_values(found.auroc),
    }
