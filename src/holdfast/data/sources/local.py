"""Local rows: one JSONL, JSON, CSV, TSV or Parquet file, in the shapes people have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from holdfast.api import LATER, EvalPurpose, EvalSet, Match, Source
from holdfast.api.evalset import SCORERS
from holdfast.api.fields import NO_EFFECT
from holdfast.data.example import Example, Role, Side, example
from holdfast.data.records import content_of, records
from holdfast.data.shapes import (
    EARLIER,
    PROMPT,
    RESPONSE,
    SPEAKERS,
    Layout,
    Record,
    cell,
    conversation,
    given,
    has,
    layout,
    meta_of,
    text_of,
)
from holdfast.data.sharing import shared_out
from holdfast.errors import DataError

RESTRICTED = ("refusal", "harmful")
"""Roles of restricted prompts."""

FIXED_REFUSAL = "I can't answer."
"""What a file of prompts alone is answered with; source: the released code of SGT."""


class Local(Source):
    """Rows of one file, all of one role.

    Its side is the `side` field, else a hash of the group. Every row must have a prompt; benign and
    task rows that train something need a response too. A cell may hold text or a list of messages;
    `a.b` names the part `b` of a nested column `a`.

    Of a conversation the last answer is the response; a system prompt and earlier turns are its
    context. One that ends with the user, has a tool's turn, or two of one speaker in a row is
    refused.

    With `evaluation_set` its rows are an evaluation set besides. What that is for follows from the
    role: restricted prompts (`refusal`, `harmful`) measure `harm`; benign rows with an answer or a
    response `exact`, without either `refused`; task rows `task`. `purpose` says otherwise. Where
    answers are compared and there is no `answer` column, the response is the answer.
    """

    status: ClassVar[str] = "tested"

    path: str
    """The file; its ending says what it is: .jsonl, .ndjson, .json, .csv, .tsv or .parquet."""
    role: Literal["refusal", "harmful", "benign", "task"]
    """What its rows are for."""
    shape: Literal[
        "auto",
        "columns",
        "messages",
        "sharegpt",
        "prompt_completion",
        "preference",
        "alpaca",
    ] = "auto"
    """How rows are kept. `columns`: a prompt and a response. `messages`: {role, content} each.
    `sharegpt`: `conversations` of {from, value}. `prompt_completion`. `preference`: `prompt`,
    `chosen`, `rejected`. `alpaca`: `instruction`, then `input` after a blank line, and `output`.
    `auto` takes the columns that `prompt` and `response` name where the first row has them, else
    the one shape that its columns fit."""
    prompt: str = PROMPT
    """Column of the prompt; another name than this one wins over the shape's own. Of `messages`
    and `sharegpt` it is the column of the whole conversation."""
    response: str | None = RESPONSE
    """Column of the response; another name than this one wins over the shape's own. None where
    there is none, or to read prompts alone. Of a preference pair it is `chosen` where nothing is
    said; for role `harmful` it must be said."""
    refusal: str | None = None
    """Of role `refusal`: the answer that every row gets, in place of any in the file. None reads
    the file's own; a file that has no column but those named here gets "I can't answer." (source:
    the released code of SGT)."""
    system: str | None = None
    """Column of a system prompt; a row without it, or with an empty cell, has none. None reads a
    column `system` where there is one."""
    turns: str | None = None
    """Column of what was said before the prompt, a list of messages or of pairs [question, answer];
    a row may have none. None reads a column `turns` or `history` where there is one."""
    group: str | None = None
    """Column of what must stay together; None makes it the prompt itself."""
    category: str | None = None
    """Column of a category."""
    side: (
        Literal["defender", "defender_selection", "attacker", "attacker_selection", "evaluator"]
        | None
    ) = None
    """Who may see the whole file; None shares rows out, by `shares` or by the hash of their
    group."""
    shares: Annotated[
        dict[
            Literal[
                "defender", "defender_selection", "attacker", "attacker_selection", "evaluator"
            ],
            Annotated[float, Field(gt=0)],
        ]
        | None,
        Field(json_schema_extra=LATER),
    ] = None
    """How groups are shared out among sides, each of which has one at least: `{attacker: 1,
    evaluator: 1}` gives each half. For small files; None leaves it to each group's hash, which
    gives 40 % to the defender, 25 % to the attacker, 25 % to the evaluator and 5 % to each
    selection. Two sources of one file with the same shares agree."""
    evaluation_set: str | None = None
    """Name of the evaluation set its rows belong to, chosen freely; None is none."""
    purpose: (
        Literal["harm", "over_refusal", "exact", "options", "refused", "task", "graded"] | None
    ) = None
    """What its evaluation set is for; None follows from the role. `over_refusal` is benign prompts
    that only resemble restricted ones; `options` needs `options` and `answer_index` in `meta`;
    answers to a `graded` set are graded by a judge, to which the answer column's text, else the
    response, is a good answer."""
    answer: str | None = None
    """Column of the known answer, with which answers are compared."""
    match: Annotated[
        Literal["exact", "normalised", "contained", "number"], Field(json_schema_extra=NO_EFFECT)
    ] = "exact"
    """When an answer is the known one: `exact`, white space aside; `normalised`, also case,
    punctuation and articles aside; `contained`, where its words stand in the answer; `number`,
    where the answer's last number is it. It changes no answer, only what counts as right."""
    meta: str | None = None
    """Column of an object with what else is known of a row: `options`, `answer_index`, ..."""

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its evaluation set, if it is one."""
        if self.evaluation_set is None:
            return ()
        purpose = self._purpose()
        label = self.evaluation_set.replace("_", " ")
        scorer = SCORERS[purpose][0]
        return (EvalSet(self.evaluation_set, purpose, scorer, label, Match(self.match)),)

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
        return content_of(Path(self.path))

    def examples(self) -> list[Example]:
        """Read every row.

        Raises:
            DataError: no such file, unknown ending, a line that cannot be read, a column that is
                missing or empty, a conversation that cannot be taken whole, no rows at all.
        """
        self._check()
        rows: list[Example] = []
        at, refusal = None, self.refusal
        unseen = [one for one in (self.system, self.turns, self.meta) if one is not None]
        for number, record in records(Path(self.path)):
            where = f"{self.path}:{number}"
            if at is None:
                at = self._layout(record, where)
                if self._alone(record, at):
                    at, refusal = replace(at, response=None), FIXED_REFUSAL
            unseen = [one for one in unseen if not has(record, one)]
            rows.append(self._example(record, at, refusal, number))
        if unseen:
            cause = f"no row has a column '{unseen[0]}'"
            raise DataError(self.path, cause, "check its name, or leave it out")
        if self.shares is None:
            return rows
        sides = {Side(name): share for name, share in self.shares.items()}
        of = shared_out((row.group for row in rows), sides, self.path)
        return [replace(row, side=of[row.group]) for row in rows]

    def answered(self) -> bool:
        """Say whether the first row has a response, where this source reads one.

        Raises:
            DataError: as `examples`, of that row.
        """
        number, first = next(records(Path(self.path)))
        at = self._layout(first, f"{self.path}:{number}")
        if at.response is None or not has(first, at.response):
            return False
        value = given(first, at.response)
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            who = value[-1].get("role") or value[-1].get("from")
            return at.prompt is not None or SPEAKERS.get(who) == "assistant"
        return bool(value)

    def _layout(self, first: Record, where: str) -> Layout:
        """Give where this file keeps its rows' text, by its first row."""
        response = self.response if self.refusal is None else None
        at = layout(first, self.shape, self.prompt, response, where)
        if at.shape == "preference" and self.role == "harmful" and response == RESPONSE:
            raise DataError(
                where,
                "a preference pair has two answers",
                "say which is the harmful one: `response: chosen` or `response: rejected`",
            )
        mapped = (self.system, self.group, self.category, self.answer, self.meta)
        named = tuple(one.partition(".")[0] for one in mapped if one is not None)
        return replace(at, turns=self.turns, mapped=named)

    def _alone(self, first: Record, at: Layout) -> bool:
        """Say whether a file of refusals has prompts and no column that could hold an answer."""
        if self.role != "refusal" or at.prompt is None or at.response != RESPONSE:
            return False
        read = {at.prompt.partition(".")[0], *at.mapped, "system", *EARLIER}
        if self.turns is not None:
            read.add(self.turns.partition(".")[0])
        return set(first) <= read

    def _example(self, record: Record, at: Layout, refusal: str | None, line: int) -> Example:
        """Make a row of a record."""
        where = f"{self.path}:{line}"
        more = ", or give every row one: `refusal: TEXT`" if self.role == "refusal" else ""
        said = conversation(record, at, where, more)
        response = said.response if refusal is None else refusal
        meta = {} if self.meta is None else meta_of(record, self.meta, where)
        if self.evaluation_set is not None:
            meta |= {"set": self.evaluation_set, "style": "as given", "phrasing": 0}
        if self.answer is not None:
            meta["answer"] = self._text(record, self.answer, where)
        elif self.evaluation_set is not None and self._compared():
            meta["answer"] = response
        return example(
            said.prompt,
            response,
            role=Role(self.role),
            side=Side(self.side) if self.side else None,
            group=None if self.group is None else self._text(record, self.group, where),
            system=self._system(record, at, said.system, where),
            category="" if self.category is None else self._text(record, self.category, where),
            source=self.path,
            meta=meta,
            turns=said.turns,
            line=line,
        )

    def _system(self, record: Record, at: Layout, said: str | None, where: str) -> str | None:
        """Give the system prompt: the conversation's own, or that of a column."""
        column = self.system
        if column is None and "system" in record and "system" not in at.mapped:
            column = "system"
        value = None if column is None else given(record, column)
        if column is None or value is None or value == "":
            return said
        if said is not None:
            cause = f"a system prompt in the conversation and one in column '{column}'"
            raise DataError(where, cause, "keep one")
        return text_of(value, column, where)

    def _text(self, record: Record, column: str, where: str) -> str:
        return text_of(cell(record, column, where), column, where)

    def _compared(self) -> bool:
        """Say whether answers to its evaluation set are compared with a known one."""
        return self._purpose() in (EvalPurpose.EXACT, EvalPurpose.TASK)

    def _check(self) -> None:
        """Refuse fields that cannot go together."""
        if self.side is not None and self.shares is not None:
            raise DataError(self.path, "`side` and `shares` both place its rows", "keep one")
        if self.shares == {}:
            raise DataError(self.path, "`shares` names no side", "name one, or leave it out")
        restricted = self.role in RESTRICTED
        if self.refusal is not None and self.role != "refusal":
            raise DataError(
                self.path, f"role {self.role} takes no `refusal`", "leave it out, or set the role"
            )
        if self.refusal is not None and not self.refusal.strip():
            raise DataError(self.path, "`refusal` is empty", "write what is answered")
        if self.evaluation_set is None:
            if self.match != "exact":
                raise DataError(
                    self.path, "`match` of no evaluation set", "name one in `evaluation_set`"
                )
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
        if self._purpose() is EvalPurpose.OPTIONS and self.meta is None:
            raise DataError(
                self.path,
                "purpose 'options' needs the options of each row",
                "name in `meta` the column of an object with `options` and `answer_index`",
            )
        if self.match != "exact" and not self._compared():
            raise DataError(
                self.path,
                f"purpose '{self._purpose()}' compares no answer, so `match` says nothing",
                "leave it out, or set the purpose",
            )
        if self._compared() and self.answer is None and self.response is None:
            raise DataError(
                self.path,
                f"purpose '{self._purpose()}' needs a known answer",
                "name its column in `answer` or `response`",
            )
