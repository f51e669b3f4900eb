"""Write a study's tables and report, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.engine.store import Store
    from holdfast.study.plan import Plan


def write_report(
    made: Plan,
    kept: Store,
    out: Path,
    show_text: bool,
    state: str,
    failures: Sequence[HoldfastError] = (),
) -> dict[str, Any]:
    """Write everything into a temporary folder, then move it into `out` file by file."""
    from holdfast.disk import hashes, rename, writing
    from holdfast.engine import tables
    from holdfast.engine.store import write_json
    from holdfast.report import answer
    from holdfast.report.files import CARDS, write_findings
    from holdfast.report.table_files import write_table
    from holdfast.report.written import STATE
    from holdfast.stats import cells
    from holdfast.stats import rows as columns

    outcomes, lineups = tables.outcomes(made, kept), tables.lineups(made, kept)
    table = columns.Outcomes(outcomes)
    found = {"state": state, "fingerprint": made.fingerprint, "invalid": cells.invalid(table)}
    temporary = out / f".tmp-{os.getpid()}"
    try:
        with writing(out):
            for stale in out.glob(".tmp-*"):
                shutil.rmtree(stale, ignore_errors=True)
            temporary.mkdir(parents=True)
        # One row a prompt: a hundred times the size as text, so as Parquet alone.
        stem = temporary / "outcomes"
        write_table(outcomes, columns.OUTCOME_COLUMNS, stem, text=False)
        write_table(cells.cells(table), cells.CELL_COLUMNS, temporary / "rows")
        write_table(lineups, columns.LINEUP_COLUMNS, temporary / "lineups")
        looks = _looks(made, kept, temporary)
        about = tables.meta(made, kept, failures)
        given = {"outcomes": table, "lineups": lineups, "meta": about, **looks}
        found["short"] = answer.short(write_findings(given, temporary, show_text=show_text))
        with writing(out):
            write_json(temporary / "meta.json", about)
            found["files"] = hashes(temporary)
            (out / STATE).unlink(missing_ok=True)
            shutil.rmtree(out / CARDS, ignore_errors=True)
            for path in sorted(temporary.iterdir()):
                rename(path, out / path.name)
            write_json(temporary / STATE, found)
            rename(temporary / STATE, out / STATE)
            temporary.rmdir()
    except HoldfastError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise type(error)(
            error.where.replace(str(temporary), str(out)), error.what, error.todo
        ) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return found


def _looks(made: Plan, kept: Store, folder: Path) -> dict[str, Any]:
    """Write the tables that only some studies have; give them as a report takes them."""
    from holdfast.engine import states, tables
    from holdfast.report import inside
    from holdfast.report.table_files import write_table
    from holdfast.stats import rows as columns

    looks: dict[str, Any] = {}
    if made.looking is not None:
        looks["analysis"] = states.table(made, kept)
        looks["scatter"] = states.scatter(made, kept)
        write_table(looks["analysis"], inside.COLUMNS, folder / "analysis")
        write_table(looks["scatter"], inside.SCATTER_COLUMNS, folder / "scatter")
    if made.hosting is not None:
        hosted = tables.outcomes(made, kept, tracks=made.hosted)
        looks["provider"] = columns.Outcomes(hosted)
        write_table(hosted, columns.OUTCOME_COLUMNS, folder / "provider", text=False)
    return looks
