"""The outcomes table as columns, and the columns of every table that is written."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.api import EvalPurpose
from holdfast.api.verdicts import unscored
from holdfast.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


OUTCOMES = (
    "refusal", "deflection", "harmful_empty", "degenerate", "harmful_useful", "benign_ok",
)  # fmt: skip
"""What answers are, in the order in which tables and figures show it."""
HARMFUL, NOT_REFUSED = "harmful_useful", "not_refused"
"""What a rate of harm counts, and what it counts by a judge that sees refusals alone."""
OUTCOME_COLUMNS: dict[str, str] = {
    "lineup": "str", "model": "str", "attack": "str", "variant": "str", "access": "str",
    "seed": "int", "budget": "float", "unit": "str", "steps": "int", "distinct": "int",
    "flops": "float",
    "side": "str", "set": "str", "purpose": "str", "style": "str", "uid": "str", "group": "str",
    "category": "str", "judge": "str", "score": "float", "outcome": "str", "reason": "str",
    "correct": "bool", "prompt": "str", "response": "str", "finish_reason": "str",
    "draws": "int", "harmful_draws": "int",
}  # fmt: skip
"""Columns of the outcomes table, in order, with their kinds. Any value but a count may be None.

A row is a prompt. It was answered `draws` times, of which a judge found `harmful_draws` harmful;
verdict and text are those of the draw that stands for it (`holdfast.engine.draws`)."""
ADDED = ("distinct", "draws", "harmful_draws")
"""Columns that older tables lack."""
REQUIRED = tuple(name for name in OUTCOME_COLUMNS if name not in ADDED)
"""Those without which nothing is counted; `purpose` came later too, and the reader of saved tables
fills it in."""
LINEUP_COLUMNS: dict[str, str] = {
    "lineup": "str", "model": "str", "defences": "str", "seed": "int", "weights": "str",
    "steps": "int", "flops": "float", "inert": "bool", "signal": "str", "moves": "str",
    "measured": "float", "beside": "float", "undecided": "str", "note": "str",
}  # fmt: skip
"""Columns of the line-ups table; `weights` is the key of the weights (line-ups in which nothing is
trained have one at every seed), `steps` and `flops` are what the defences cost, `measured` is the
diagnostic `signal` of the line-up's own model, `beside` that of plain refusal fine-tuning's."""


def distinct_rows(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct rows of columns of whole numbers, each [N], in rising order.

    Gives each one's first place, [C], and the number of each row's, [N]. The columns become one
    number a row, which is sorted much faster than rows of several.
    """
    together, size = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        if size * (high - low + 1) >= 2**62:
            together, column = (
                np.unique(one, return_inverse=True)[1] for one in (together, column)
            )
            size, low, high = int(together.max()) + 1, 0, int(column.max())
        together = together * (high - low + 1) + (column - low)
        size *= high - low + 1
    _, first, which = np.unique(together, return_index=True, return_inverse=True)
    return first, which.reshape(-1)


class Outcomes:
    """The outcomes table as columns; made from dicts or from a pyarrow table.

    `codes[name]` [N] index into `words[name]` for text columns (None is the empty word);
    `numbers[name]` [N] are floats, NaN for None.
    """

    TEXT = (
        "lineup", "model", "attack", "variant", "access", "unit", "side", "set", "purpose",
        "style", "uid", "group", "category", "judge", "outcome", "reason", "finish_reason",
    )  # fmt: skip
    NUMBERS = ("seed", "budget", "steps", "flops", "score", "correct")
    LATER = ("distinct",)
    """Numbers that older tables lack: NaN there."""

    def __init__(self, table: Iterable[Mapping[str, Any]] | pa.Table) -> None:
        self.rows: Sequence[Mapping[str, Any]] | None = None
        columns = getattr(table, "column", None)
        if columns is None:
            self.rows = table if isinstance(table, Sequence) else list(table)
            missing = [n for n in REQUIRED if self.rows and n not in self.rows[0]]
            self._read = self._read_rows
        else:
            missing = [name for name in REQUIRED if name not in table.column_names]
            self._table = table
            self._read = self._read_column
        if missing:
            raise DataError(
                "outcomes table",
                f"the columns {', '.join(missing)} are missing",
                "write it again with 'holdfast run'",
            )
        self.words: dict[str, list[str]] = {}
        self.codes: dict[str, np.ndarray] = {}
        self.numbers: dict[str, np.ndarray] = {}
        for name in self.TEXT:
            self.words[name], self.codes[name] = self._coded(name)
        for name in self.NUMBERS:
            self.numbers[name] = self._floats(name)
        self.n = len(self.numbers["seed"])
        for name in self.LATER:
            there = self._there(name)
            self.numbers[name] = self._floats(name) if there else np.full(self.n, math.nan)
        if self.rows is not None:  # a row that lacks its text is told now, not when it is shown
            self.prompt, self.response = self._read("prompt"), self._read("response")

    @functools.cached_property
    def prompt(self) -> list[str | None]:
        """What was asked, a text a row."""
        return self._read("prompt")

    @functools.cached_property
    def response(self) -> list[str | None]:
        """What was answered, a text a row."""
        return self._read("response")

    def _coded(self, name: str) -> tuple[list[str], np.ndarray]:
        """Number the words of a column by first appearance; None becomes the empty word."""
        column = None if self.rows is not None else self._table.column(name)
        if column is not None and str(column.type) == "string":  # whole, in the table's own memory
            parts = column.fill_null("").dictionary_encode().unify_dictionaries().chunks
            if not parts:
                return [], np.zeros(0, int)
            codes = np.concatenate([np.asarray(part.indices) for part in parts])
            return parts[0].dictionary.to_pylist(), codes.astype(int)
        return _coded(self._read(name))

    def _floats(self, name: str) -> np.ndarray:
        """Give a column of numbers, NaN for None: [N]."""
        if self.rows is None:
            values = self._table.column(name).to_numpy()
            if values.dtype.kind in "fiub":
                return values.astype(float)
        try:
            return np.asarray([math.nan if v is None else v for v in self._read(name)], float)
        except (ValueError, TypeError):
            raise DataError(
                "outcomes table", f"'{name}' holds no numbers", "write it again with 'holdfast run'"
            ) from None

    def _there(self, name: str) -> bool:
        if self.rows is not None:
            return bool(self.rows) and name in self.rows[0]
        return name in self._table.column_names

    def has(self, name: str) -> bool:
        """Say whether a column of numbers holds any."""
        return bool((~np.isnan(self.numbers[name])).any())

    def _read_rows(self, name: str) -> list[Any]:
        try:
            return [row[name] for row in self.rows or ()]
        except KeyError as error:
            raise DataError(
                "outcomes table", f"a row has no '{name}'", "write it again with 'holdfast run'"
            ) from error

    def _read_column(self, name: str) -> list[Any]:
        return self._table.column(name).to_pylist()

    def code(self, name: str, word: str) -> int:
        """Give the code of a word in a column; -1 where the column never holds it."""
        try:
            return self.words[name].index(word)
        except ValueError:
            return -1

    def where(self, **wanted: str | float | Iterable[str]) -> np.ndarray:
        """Say which rows hold the wanted values: [N] bool. A tuple or list means any of them."""
        mask = np.ones(self.n, bool)
        for name, value in wanted.items():
            if isinstance(value, int | float):
                mask &= self.numbers[name] == value
                continue
            words = [value] if isinstance(value, str) else list(value)
            mask &= np.isin(self.codes[name], [self.code(name, word) for word in words])
        return mask

    def distinct(self, name: str, mask: np.ndarray | None = None) -> list[Any]:
        """Give a column's values under a mask: text by first appearance, numbers rising."""
        if name in self.numbers:
            return np.unique(
                self.numbers[name] if mask is None else self.numbers[name][mask]
            ).tolist()
        codes = self.codes[name] if mask is None else self.codes[name][mask]
        return [self.words[name][code] for code in np.flatnonzero(np.bincount(codes))]

    def numbered(self, name: str) -> np.ndarray:
        """Give a column of numbers as codes that rise with its values: [N]."""
        return np.unique(self.numbers[name], return_inverse=True)[1].reshape(-1)

    def is_(self, name: str, word: str) -> np.ndarray:
        """Say which rows hold one word in a text column: [N] bool."""
        return self.codes[name] == self.code(name, word)

    @functools.cached_property
    def purposes(self) -> dict[str, EvalPurpose]:
        """What each set of prompts is for, by its name.

        Raises:
            DataError: a set has several purposes, or one that is none.
        """
        found = {}
        for name in self.distinct("set"):
            words = self.distinct("purpose", self.is_("set", name))
            if len(words) > 1 or words[0] not in list(EvalPurpose):
                said = " and ".join(f"'{word}'" for word in words)
                raise DataError(
                    "outcomes table",
                    f"set '{name}' is for {said}, not for one purpose",
                    "write it again with 'holdfast run'",
                )
            found[name] = EvalPurpose(words[0])
        return found

    @functools.cached_property
    def counted(self) -> np.ndarray:
        """Rows whose outcome a rate of harm counts: [N] bool.

        Useful and harmful, or not refused where the judge sees no more.
        """
        return self.is_("outcome", HARMFUL) | self.is_("outcome", NOT_REFUSED)

    @functools.cached_property
    def judged(self) -> np.ndarray:
        """Rows a judge gave an outcome: [N] bool."""
        return ~self._unscored(np.zeros(self.n, bool))

    @functools.cached_property
    def checked(self) -> np.ndarray:
        """Rows whose answer was compared with the expected one: [N] bool."""
        return ~np.isnan(self.numbers["correct"])

    @functools.cached_property
    def unscored(self) -> np.ndarray:
        """Rows without a verdict, by `holdfast.api.verdicts.unscored`: [N] bool."""
        return self._unscored(self.checked)

    def _unscored(self, compared: np.ndarray) -> np.ndarray:
        """Ask the one definition once per kind of row; `compared` [N] stands for `correct`."""
        outcomes, reasons = self.words["outcome"], self.words["reason"]
        kind = self.codes["outcome"] * len(reasons) + self.codes["reason"]
        kinds, which = np.unique(2 * kind + compared, return_inverse=True)
        found = [
            unscored(
                reasons[code // 2 % len(reasons)],
                outcomes[code // 2 // len(reasons)],
                True if code % 2 else None,
            )
            for code in kinds
        ]
        return np.asarray(found, bool)[which.reshape(-1)]

    @functools.cached_property
    def generated(self) -> np.ndarray:
        """Rows whose answer the model wrote and whose end is known: [N] bool.

        Not those chosen from options, and not what lm-eval asked, which does not tell.
        """
        return ~self.where(finish_reason=("choice", "lm_eval"))

    @functools.cached_property
    def cut(self) -> np.ndarray:
        """Rows whose answer reached the token limit: [N] bool."""
        return self.is_("finish_reason", "length")


def told(counts: str) -> tuple[str, ...]:
    """Give what answers may be, in the order of tables and figures, by what their judge counts."""
    return ("refusal", "degenerate", NOT_REFUSED) if counts == NOT_REFUSED else OUTCOMES


def _coded(values: Sequence[Any]) -> tuple[list[str], np.ndarray]:
    """Number the words of a column by first appearance; None becomes the empty word."""
    seen: dict[str, int] = {}
    codes = [seen.setdefault("" if v is None else str(v), len(seen)) for v in values]
    return list(seen), np.asarray(codes, int)
