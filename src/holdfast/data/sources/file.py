"""Local rows: one JSONL, CSV or Parquet file with a column map."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from holdfast.api import LATER, EvalPurpose, EvalSet, Source
from holdfast.api.evalset import SCORERS
from holdfast.data.example import Example, Role, Side, example
from holdfast.errors import DataError

RESTRICTED = ("refusal", "harmful")
"""Roles of restricted prompts."""


class File(Source):
    """Rows of one file, all of one role.

    Its side is the `side` field, else a hash of the group. Every row must have a prompt; benign and
    task rows that train something need a response too.

    With `evaluation_set` its rows are an evaluation set besides. What that is for follows from the
    role: restricted prompts (`refusal`, `harmful`) measure `harm`; benign rows with an answer or a
    response `exact`, without either `refused`; task rows `task`. `purpose` says otherwise. Where
    answers are compared and there is no `answer` column, the response is the answer.
    """

    status: ClassVar[str] = "tested"

    path: str
    """The file; its ending says what it is: .jsonl, .csv or .parquet."""
    role: Literal["refusal", "harmful", "benign", "task"]
    """What its rows are for."""
    prompt: str = "prompt"
    """Column of the prompt."""
    response: str | None = "response"
    """Column of the response; None where there is none."""
    system: str | None = None
    """Column of a system prompt."""
    group: str | None = None
    """Column of what must stay together; None makes it the prompt itself."""
    category: str | None = None
    """Column of a category."""
    side: (
        Literal["defender", "defender_selection", "attacker", "attacker_selection", "evaluator"]
        | None
    ) = None
    """Who may see the whole file; None shares rows out by the hash of their group."""
    evaluation_set: str | None = None
    """Name of the evaluation set its rows belong to, chosen freely; None is none."""
    purpose: Annotated[
        Literal["harm", "over_refusal", "exact", "refused", "task"] | None,
        Field(json_schema_extra=LATER),
    ] = None
    """What its evaluation set is for; None follows from the role. `over_refusal` is benign prompts
    that only resemble restricted ones."""
    answer: str | None = None
    """Column of the exact expected answer, for exact match."""

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its evaluation set, if it is one."""
        if self.evaluation_set is None:
            return ()
        purpose = self._purpose()
        label = self.evaluation_set.replace("_", " ")
        return (EvalSet(self.evaluation_set, purpose, SCORERS[purpose][0], label),)

    def _purpose(self) -> EvalPurpose:
        """Give what its evaluation set is for: as said, or by its role."""
        if self.purpose is not None:
            return EvalPurpose(self.purpose)
        if self.role in RESTRICTED:
            return EvalPurpose.HARM
        if self.role == "task":
            return EvalPurpose.TASK
        known = self.answer is not None or self.response is not None
        return EvalPurpose.EXACT if known else EvalPurpose.REFUSED

    def content(self) -> str:
        """Give the hash of the file's bytes."""
        return hashlib.sha256(self._file().read_bytes()).hexdigest()

    def _file(self) -> Path:
        path = Path(self.path)
        if not path.is_file():
            raise DataError(self.path, "no such file", "check the path")
        return path

    def examples(self) -> list[Example]:
        """Read every row.

        Raises:
            DataError: no such file, unknown ending, a line that cannot be read, a column that is
                missing or empty, no rows at all.
        """
        self._check()
        rows = []
        for number, record in _records(self._file()):
            where = f"{self.path}:{number}"
            prompt = self._text(record, self.prompt, where)
            response = None if self.response is None else self._text(record, self.response, where)
            meta: dict[str, Any] = {}
            if self.evaluation_set is not None:
                meta |= {"set": self.evaluation_set, "style": "as given", "phrasing": 0}
            if self.answer is not None:
                meta["answer"] = self._text(record, self.answer, where)
            elif self.evaluation_set is not None and self._compared():
                meta["answer"] = response
            rows.append(
                example(
                    prompt,
                    response,
                    role=Role(self.role),
                    side=Side(self.side) if self.side else None,
                    group=None if self.group is None else self._text(record, self.group, where),
                    system=None if self.system is None else self._text(record, self.system, where),
                    category=(
                        "" if self.category is None else self._text(record, self.category, where)
                    ),
                    source=self.path,
                    meta=meta,
                )
            )
        if not rows:
            raise DataError(self.path, "no rows", "give a file that has some")
        return rows

    def _compared(self) -> bool:
        """Say whether answers to its evaluation set are compared with a known one."""
        return self._purpose() in (EvalPurpose.EXACT, EvalPurpose.TASK)

    def _check(self) -> None:
        """Refuse fields that cannot go together."""
        restricted = self.role in RESTRICTED
        if self.evaluation_set is None:
            if self.purpose is not None:
                raise DataError(
                    self.path,
                    f"purpose '{self.purpose}' of no evaluation set",
                    "name one in `evaluation_set`",
                )
            if self.response is None and not restricted:
                raise DataError(
                    self.path, f"role {self.role} needs a response", "name its column in `response`"
                )
            return
        if restricted != (self._purpose() is EvalPurpose.HARM):
            raise DataError(
                self.path,
                f"role {self.role} cannot be asked for '{self._purpose()}'",
                "restricted prompts (refusal, harmful) measure harm, the others never do",
            )
        if self._compared() and self.answer is None and self.response is None:
            raise DataError(
                self.path,
                f"purpose '{self._purpose()}' needs a known answer",
                "name its column in `answer` or `response`",
            )

    def _text(self, record: dict[str, Any], column: str, where: str) -> str:
        if column not in record:
            known = ", ".join(map(str, record)) or "none"
            raise DataError(where, f"no column '{column}'", f"map it to one of: {known}")
        value = record[column]
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                where, f"column '{column}' is empty or no text", "fill it or drop the row"
            )
        return value


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give each record with its line (Parquet: row) number, from 1."""
    try:
        yield from _read(path)
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"is not UTF-8 ({error})", "save it as UTF-8") from None


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.suffix == ".jsonl":
        yield from _json_lines(path)
    elif path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            yield from _numbered(csv.DictReader(file), first=2)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            cause = str(error).splitlines()[0]
            raise DataError(str(path), f"not a Parquet file ({cause})", "write it again") from None
        yield from _numbered(table.to_pylist(), first=1)
    else:
        raise DataError(
            str(path), f"unknown kind of file '{path.suffix}'", "use .jsonl, .csv or .parquet"
        )


def _numbered(
    records: Iterable[dict[str, Any]], first: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from enumerate(records, start=first)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{path}:{number}", f"not JSON ({error})", "write one object a line"
            ) from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}", "not a JSON object", "write one object a line")
        yield number, record
