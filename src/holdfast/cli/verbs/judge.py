"""`holdfast judge`: have a judge read answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.exchanges import meta, rows_of, text, text_or_none
from holdfast.cli.folders import whole_file
from holdfast.cli.given import fields
from holdfast.cli.options import Out, Sets


def judge(
    name: Annotated[str, typer.Argument(help="A judge; see `holdfast ls judge`.")],
    exchanges: Annotated[Path, typer.Option("--exchanges", help="What `generate` wrote.")],
    out: Out,
    sets: Sets = None,
) -> int:
    """Have a judge read answers. Writes JSON lines and counts the outcomes."""
    from holdfast.api import Exchange
    from holdfast.api.registry import make
    from holdfast.api.verdicts import ask, too_many_unscored, unscored
    from holdfast.errors import InvalidResultsError

    reader: Any = make("judge", {name: fields(sets)}, "judge")
    verdicts, missing = [], 0
    for i, row in enumerate(rows_of(exchanges), start=1):
        where = f"{exchanges}:{i}"
        exchange = Exchange(
            example_uid=str(row.get("uid", i)),
            system=text_or_none(row, "system", where),
            prompt=text(row, "prompt", where),
            prefill=text_or_none(row, "prefill", where) or "",
            response=text(row, "response", where),
            finish_reason=text_or_none(row, "finish_reason", where) or "stop",
            meta=meta(row, where),
        )
        verdict = ask(reader, exchange)
        missing += unscored(verdict.reason, verdict.outcome)
        found = {"score": verdict.score, "outcome": verdict.outcome, "reason": verdict.reason}
        verdicts.append({"uid": exchange.example_uid, **found, "raw": verdict.raw})
    whole_file(out, verdicts)
    counts = Counter(str(row["outcome"] or row["reason"]) for row in verdicts)
    for word, count in counts.most_common():
        typer.echo(f"{word:<16}{count:>6}")
    if too_many_unscored(missing, len(verdicts)):
        raise InvalidResultsError(
            "judge", f"{missing} of {len(verdicts)} answers have no verdict", f"see {out}"
        )
    return 0
