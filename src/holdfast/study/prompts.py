"""Draw a study's evaluation sets: the same prompts at every study seed."""

from __future__ import annotations

from holdfast.data.example import Side
from holdfast.data.pool import Pool
from holdfast.errors import DataError, did_you_mean
from holdfast.study.file import Evaluation
from holdfast.study.keys import digest
from holdfast.study.nodes import Prompts


def draw(pool: Pool, wanted: Evaluation, where: str) -> Prompts:
    """Draw one evaluation set.

    Raises:
        DataError: there is no such set, style, or not enough of it.
    """
    for style in wanted.styles or ():
        known = _styles(pool, wanted.set)
        if known and style not in known:
            raise DataError(
                f"{where}.styles",
                f"set '{wanted.set}' has no style '{style}'",
                did_you_mean(style, known),
            )
    try:
        rows = pool.evaluation(
            wanted.set,
            Side(wanted.side),
            wanted.n,
            0,
            styles=wanted.styles,
            phrasings=wanted.phrasings,
        )
    except DataError as error:
        raise DataError(f"{where}: {error.where}", error.what, error.todo) from None
    options = wanted.set == "quiz"
    asked = [
        [row.uid, row.system, row.prompt, list(row.meta["options"]) if options else None]
        for row in rows
    ]
    known = [[row.category, row.group, dict(row.meta)] for row in rows]
    return Prompts(wanted.set, wanted.side, tuple(rows), digest(asked), digest(known))


def _styles(pool: Pool, name: str) -> set[str]:
    return {
        str(row.meta.get("style"))
        for side in Side
        for row in pool.rows(side, lambda row: row.meta.get("set") == name)
    }
