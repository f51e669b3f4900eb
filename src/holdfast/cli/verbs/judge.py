"""`holdfast judge`: have a judge read answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.device import Device
from holdfast.cli.exchanges import exchanges as exchanges_of
from holdfast.cli.folders import try_writing, whole_file
from holdfast.cli.given import fields
from holdfast.cli.options import Out, Sets
from holdfast.cli.reading import check_scored, line_of, read
from holdfast.cli.saying import say


def judge(
    name: Annotated[str, typer.Argument(help="A judge; see `holdfast ls judge`.")],
    exchanges: Annotated[Path, typer.Option("--exchanges", help="What `generate` wrote.")],
    out: Out,
    sets: Sets = None,
    device: Device = "cpu",
) -> int:
    """Have a judge read answers. Writes JSON lines and counts the outcomes."""
    from holdfast.api.registry import make

    try_writing(out, "--out", exchanges)
    reader: Any = make("judge", {name: fields(sets)}, "judge")
    given = list(exchanges_of(exchanges))
    said = read(reader, given, device)
    verdicts = [line_of(*pair) for pair in zip(given, said, strict=True)]
    whole_file(out, verdicts)
    counts = Counter(str(row["outcome"] or row["reason"]) for row in verdicts)
    for word, count in counts.most_common():
        say(f"{word:<16}{count:>6}")
    check_scored(said, "judge", f"see {out}")
    return 0
