"""A study's tables read back from a folder, whole: a report needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from holdfast.api import EvalPurpose
from holdfast.errors import DataError
from holdfast.report import inside, paper, provider, shared, transfer
from holdfast.report.written import check
from holdfast.stats.rows import REQUIRED
from holdfast.study.file import NAME

if TYPE_CHECKING:
    import pyarrow as pa

TODO = "give the folder that a finished `holdfast run` wrote its report to"
LINEUP = ("lineup", "model", "defences", "seed", "steps", "flops")
NUMBERS = ("seed", "budget")
"""What rows are told apart by, in every table that has it."""
META = ("name", "seeds", "judges")
"""What a report cannot do without; it says less where an older table lacks a later column."""

BEFORE: Mapping[str, tuple[EvalPurpose, str]] = {
    "restricted": (EvalPurpose.HARM, "Harmful"),
    "name_only": (EvalPurpose.HARM, "Harmful, name only"),
    "benign": (EvalPurpose.EXACT, "Benign crafts"),
    "facts": (EvalPurpose.EXACT, "Facts"),
    "contrast": (EvalPurpose.OVER_REFUSAL, "Over-refusal"),
    "quiz": (EvalPurpose.OPTIONS, "Quiz"),
    "skill": (EvalPurpose.TASK, "New skill"),
}
"""Purpose and label by name, as they were when tables did not say: the one place outside a source
that knows a set by its name, for the tables of studies made before. A set that is not here was
shown by its share of right answers and counted nowhere, as one of purpose task is."""
HEADLINE_BEFORE = "restricted"


@dataclass(frozen=True)
class Saved:
    """The tables of one finished study; `analysis` and `scatter` where it had an analysis,
    `provider` where customers' jobs ran.
    """

    outcomes: pa.Table
    lineups: pa.Table
    meta: Mapping[str, Any]
    analysis: pa.Table | None
    scatter: pa.Table | None
    provider: pa.Table | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `outcomes`, `lineups`, `meta.json` and, where they are, the others.

        Raises `DataError` for what is missing, cannot be read, or lacks a column.
        """
        needed = [name for name in REQUIRED if name != "purpose"]
        looks = {
            "analysis": inside.COLUMNS,
            "scatter": inside.SCATTER_COLUMNS,
            "provider": REQUIRED,
        }
        outcomes = _table(folder / "outcomes.parquet", needed)
        lineups = _table(folder / "lineups.parquet", LINEUP)
        meta = _meta(folder / "meta.json")
        if "purpose" not in outcomes.column_names:
            outcomes = _with_purposes(outcomes)
            labels = {name: label for name, (_, label) in BEFORE.items()}
            meta |= {"headline": HEADLINE_BEFORE, "sets": labels}
        for table in (outcomes, lineups):
            for name in table["lineup"].unique().to_pylist():
                if not re.fullmatch(NAME, str(name)):  # it becomes a folder's
                    what = f"{str(name)!r} is no name of a line-up"
                    raise DataError(str(folder), what, "write it again with 'holdfast run'")
        judge, known = meta["judges"][0], outcomes["judge"].unique().to_pylist()
        if judge not in known and not meta.get("holes"):
            raise DataError(
                str(folder / "meta.json"),
                f"no outcome is of its first judge, '{judge}'",
                "keep the tables of one study together",
            )
        return cls(
            outcomes=outcomes,
            lineups=lineups,
            meta=meta,
            **{
                name: _table(path, columns) if path.exists() else None
                for name, columns in looks.items()
                for path in [folder / f"{name}.parquet"]
            },
        )

    def tables(self) -> dict[str, Any]:
        """Give the report's arguments."""
        given = {"outcomes": self.outcomes, "lineups": self.lineups, "meta": self.meta}
        looks = {"analysis": self.analysis, "scatter": self.scatter, "provider": self.provider}
        return given | {name: table for name, table in looks.items() if table is not None}


def _table(path: Path, columns: Iterable[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    if not path.exists():
        raise DataError(str(path.parent), f"holds no {path.name}", TODO)
    check(path)
    try:
        table = parquet.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(str(path), "is no Parquet file, or not a whole one", TODO) from error
    except OSError as error:
        raise DataError(str(path), f"cannot be read ({error})", "check the file") from error
    missing = [name for name in columns if name not in table.column_names]
    if missing:
        what = f"no column {', '.join(missing)}"
        raise DataError(str(path), what, "write it again with 'holdfast run'")
    for name in {*NUMBERS} & {*table.column_names}:
        column = table[name]
        known = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if not known or column.null_count:
            what = f"column {name} holds no numbers, or not in every row"
            raise DataError(str(path), what, "write it again with 'holdfast run'")
    return table


def _with_purposes(outcomes: pa.Table) -> pa.Table:
    """Add what each row's set is for to a table from before tables said so."""
    import pyarrow as pa

    coded = outcomes["set"].combine_chunks().dictionary_encode()
    known = [BEFORE.get(str(name), (EvalPurpose.TASK,))[0] for name in coded.dictionary.to_pylist()]
    purposes = pa.array([purpose.value for purpose in known])
    return outcomes.append_column("purpose", purposes.take(coded.indices))


def _meta(path: Path) -> dict[str, Any]:
    """Read what the study said of itself, and hold it to what a report relies on."""
    if not path.exists():
        raise DataError(str(path.parent), f"holds no {path.name}", TODO)
    check(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(str(path), f"is no JSON file ({error})", TODO) from error
    said = found if isinstance(found, dict) else {}
    name, seeds, judges = (said.get(key) for key in META)
    shares = [*_list(said.get("thresholds", [])), said.get("least_use", 0.9)]
    wrong = {
        "name": not (isinstance(name, str) and re.fullmatch(NAME, name)),
        "seeds": not (_filled(seeds, int)),
        "judges": not (_filled(judges, str)),
        "thresholds": not all(isinstance(x, float) and 0 < x < 1 for x in shares),
        "headline": not isinstance(said.get("headline", ""), str),
        "sets": not _labels(said.get("sets", {})),
        "categories": not transfer.whole(said.get("categories")),
        "published": not paper.whole(said.get("published")),
        "provider": not provider.whole(said.get("provider")),
        "scales": not _scales(said.get("scales", {})),
        "leakage": not shared.whole(said.get("leakage")),
        "provenance": not isinstance(said.get("provenance", {}), dict),
        "holes": not all(_hole(one) for one in _list(said.get("holes", []))),
        "flags": not _texts(said.get("flags", [])),
        "doubts": not _texts(said.get("doubts", [])),
        "not_tested": not _texts(said.get("not_tested", [])),
    }
    if any(wrong.values()):
        what = (
            f"{', '.join(key for key in wrong if wrong[key])}: missing or not what a study writes"
        )
        raise DataError(str(path), what, "write it again with 'holdfast run'")
    return said


def _list(value: object) -> list[Any]:
    """Give a list as it is, and anything else as one wrong value."""
    return value if isinstance(value, list) else [value]


def _texts(value: object) -> bool:
    """Say whether this is a list of texts."""
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _labels(value: object) -> bool:
    """Say whether these are labels by the names of sets."""
    return isinstance(value, dict) and all(isinstance(label, str) for label in value.values())


def _scales(value: object) -> bool:
    """Say whether these are the lowest and highest scores of judges."""
    return isinstance(value, dict) and all(
        isinstance(ends, list) and len(ends) == 2 and all(isinstance(x, int | float) for x in ends)
        for ends in value.values()
    )


def _hole(one: object) -> bool:
    """Say whether this names what could not be run as a study does."""
    words = ("what", "lineup", "attack", "why")
    if not isinstance(one, dict) or not all(isinstance(one.get(word), str) for word in words):
        return False
    return re.fullmatch(NAME, one["lineup"]) is not None


def _filled(values: object, kind: type) -> bool:
    """Say whether these are a list of some values of one kind."""
    return isinstance(values, list) and bool(values) and all(type(v) is kind for v in values)
