"""`holdfast join`: put the seeds of one study together that ran apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.folders import try_making
from holdfast.cli.options import Out
from holdfast.cli.saying import say
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.report.saved import Saved


def join(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Folders with a study's tables."),
    ],
    out: Out,
) -> None:
    """Put together the tables of one study whose seeds ran apart (`run --seeds`)."""
    from holdfast import disk
    from holdfast.engine.store import write_json
    from holdfast.report.joining import joined
    from holdfast.report.saved import Saved
    from holdfast.report.table_files import write_table
    from holdfast.stats.cells import CELL_COLUMNS, cells
    from holdfast.stats.rows import LINEUP_COLUMNS, OUTCOME_COLUMNS, Outcomes

    if out.exists():
        raise ConfigError("--out", f"{out} exists", "name a folder that does not")
    try_making(out)
    for place, folder in enumerate(folders):
        if folder.resolve() in [one.resolve() for one in folders[:place]]:
            raise ConfigError(str(folder), "is named twice", "name each part once")
        if not folder.is_dir():
            raise ConfigError(str(folder), "no such folder", "name folders that `run` wrote")
    made = joined({str(folder): Saved.read(folder) for folder in folders})
    with disk.whole_folder(out) as temporary:
        for name, table in (("outcomes", made.outcomes), ("provider", made.provider)):
            if table is not None:
                rows = table.to_pylist()
                write_table(rows, OUTCOME_COLUMNS, temporary / name, text=False)
        write_table(cells(Outcomes(made.outcomes)), CELL_COLUMNS, temporary / "rows")
        write_table(made.lineups.to_pylist(), LINEUP_COLUMNS, temporary / "lineups")
        _write_looks(made, temporary)
        write_json(temporary / "meta.json", dict(made.meta))
    say(f"{len(made.meta['seeds'])} seeds of {made.meta['name']}: {out}")
    say(f"next: holdfast report {out}")


def _write_looks(made: Saved, folder: Path) -> None:
    """Write the tables of a study that looked inside its models."""
    from holdfast.report import inside
    from holdfast.report.table_files import write_table

    for name, columns in (("analysis", inside.COLUMNS), ("scatter", inside.SCATTER_COLUMNS)):
        if (table := getattr(made, name)) is not None:
            write_table(table.to_pylist(), columns, folder / name)
