"""`holdfast judge`: have a judge read answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.device import Device
from holdfast.cli.exchanges import exchanges as exchanges_of
from holdfast.cli.folders import whole_file
from holdfast.cli.given import fields
from holdfast.cli.options import Out, Sets

CHUNK = 256
"""Answers given to a judge at once, as a study's `chunk`: a failure asks no more of them again."""


def judge(
    name: Annotated[str, typer.Argument(help="A judge; see `holdfast ls judge`.")],
    exchanges: Annotated[Path, typer.Option("--exchanges", help="What `generate` wrote.")],
    out: Out,
    sets: Sets = None,
    device: Device = "cpu",
) -> int:
    """Have a judge read answers. Writes JSON lines and counts the outcomes."""
    from holdfast.api.registry import make
    from holdfast.api.verdicts import ask, too_many_unscored, unscored
    from holdfast.errors import InvalidResultsError

    reader: Any = make("judge", {name: fields(sets)}, "judge")
    given = list(exchanges_of(exchanges))
    with reader.opened(device):
        parts = (given[first : first + CHUNK] for first in range(0, len(given), CHUNK))
        said = [verdict for part in parts for verdict in ask(reader, part)]
    verdicts = [
        {
            "uid": exchange.example_uid,
            "score": verdict.score,
            "outcome": verdict.outcome,
            "reason": verdict.reason,
            "raw": verdict.raw,
        }
        for exchange, verdict in zip(given, said, strict=True)
    ]
    missing = sum(unscored(verdict.reason, verdict.outcome) for verdict in said)
    whole_file(out, verdicts)
    counts = Counter(str(row["outcome"] or row["reason"]) for row in verdicts)
    for word, count in counts.most_common():
        typer.echo(f"{word:<16}{count:>6}")
    if too_many_unscored(missing, len(verdicts)):
        raise InvalidResultsError(
            "judge", f"{missing} of {len(verdicts)} answers have no verdict", f"see {out}"
        )
    return 0
