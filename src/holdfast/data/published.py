"""What published data sets have in common: fetched or found, checked, told apart, shared out.

A source of one is a file that says where the set lies, what its columns hold and what becomes of a
row. Everything else is here: the commit, the folder, counts, what is dropped, who sees what.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from holdfast.api import (
    LATER,
    NO_EFFECT,
    AsTuple,
    Declared,
    EvalPurpose,
    EvalSet,
    Labelled,
    Match,
    Scorer,
    Source,
    Told,
)
from holdfast.data.columns import Kind, Record, fit
from holdfast.data.example import RESTRICTED, Example, Role, Side, example
from holdfast.data.folder import find
from holdfast.data.hub import Place, Split, fetch, fetched
from holdfast.data.labelled import labelled_pair
from holdfast.data.pool import side_of
from holdfast.data.records import records
from holdfast.errors import ConfigError, DataError, did_you_mean

NEWEST = "newest"
AS_GIVEN = "as given"
"""The style of a set's prompts where it has only one."""


class Skip(StrEnum):
    """Why a published row is not read."""

    EMPTY = "without text"
    REDACTED = "redacted"
    UNLABELLED = "without a label"
    UNANSWERED = "without an answer that fits a role"
    CATEGORY = "of other categories"
    REPEATED = "of a prompt that came before"
    ASKED = "of a prompt that the evaluator asks"
    BOTH = "of a prompt that came before with the opposite label"


Lengths = tuple[float, float, int]
"""Mean tokens of a prompt and of an answer, and of the longest row."""

Tables = Mapping[str, Sequence[Record]]
"""Every row of each split, by the split's name."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows of a source, where they came from, and how many were dropped for what."""

    rows: tuple[Example, ...]
    place: str
    read: int
    dropped: Counter[Skip]


class Published(Source):
    """A published data set, pinned to a commit, or read from a folder of downloaded files.

    One prompt is read once in a role. Where the publisher held a split back for tests, that is the
    evaluator's, and what is left is shared out among the other sides by the hash of the prompt.
    """

    status: ClassVar[str] = "tested on its columns, not on its published rows"
    place: ClassVar[Place]
    """Where it lies, and whether its terms must be accepted first."""
    commit: ClassVar[str | None] = None
    """The commit that is read where the user names none; None: the newest."""
    columns: ClassVar[Mapping[str, Kind]]
    """The columns that are read, and what each holds."""
    licence: ClassVar[str]
    """Its licence, as its publisher says it."""
    size: ClassVar[str]
    """About what is downloaded."""
    lengths: ClassVar[Lengths]
    """How long its rows are, for estimates: a guess from what its publisher shows of it."""

    revision: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|newest)$")] | None = None
    """A commit of its repository (40 hexadecimal digits) or `newest`; None is the commit that the
    source names, where it names one, else the newest."""
    folder: Annotated[str | None, Field(json_schema_extra=NO_EFFECT)] = None
    """A folder of downloaded files, which needs no network; None fetches them. A split is found
    under its published names, or as one file such as `train.parquet`, .jsonl, .json, .csv, .tsv."""
    rows: Annotated[Literal["published", "any"], Field(json_schema_extra=NO_EFFECT)] = "published"
    """Whether a split must have as many rows as were published, or may have `any` number."""

    def splits(self) -> tuple[Split, ...]:
        """Give the splits that are read."""
        raise NotImplementedError

    def at_hand(self) -> bool:
        """Say whether a folder is given, or its splits were fetched before."""
        revision = self.commit if self.revision is None else self.revision
        return self.folder is not None or fetched(self.place, self.splits(), revision)

    def told(self) -> tuple[Told, ...]:
        """Give its kinds of rows and their numbers; by default one evaluation set of every row."""
        (one,) = self.sets()
        role = "harmful" if one.purpose is EvalPurpose.HARM else "benign"
        number = sum(split.rows for split in self.splits())
        return (Told(role, number, "evaluator", one.name),)

    def declared(self) -> Declared:
        """Give the numbers that were published, and guesses where labels alone decide."""
        prompt, response, longest = self.lengths
        return Declared(self.told(), prompt, response, longest, "a guess: nobody published them")

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Give what becomes of one published row."""
        raise NotImplementedError

    def translate(self, split: Split, tables: Tables) -> Iterator[Example | Skip]:
        """Give what becomes of a split; by default `read` of each of its rows."""
        for record in tables[split.name]:
            yield from self.read(record, split)

    def wanted(self, row: Example) -> bool:
        """Say whether a row that could be read is kept."""
        return True

    def raw(self, path: Path, split: Split) -> Iterator[tuple[int, dict[str, object]]]:
        """Give each row of a file with its number; by default as any file of rows is read."""
        yield from records(path)

    def harmful_answer(self, record: Record) -> bool | None:
        """Say whether people found the answer harmful; None: the row has no answer or no label."""
        return None

    def labelled(self) -> Sequence[Labelled]:
        """Give the answers that its publisher labelled: of the split held back for tests, if any.

        Raises:
            DataError: as `examples`.
        """
        if type(self).harmful_answer is Published.harmful_answer:
            return ()
        splits = self.splits()
        held_back = [one for one in splits if one.side is Side.EVALUATOR]
        tables, _ = self._tables(tuple(held_back) or splits)
        return [
            label
            for rows in tables.values()
            for record in rows
            if (label := self._label(record)) is not None
        ]

    def _label(self, record: Record) -> Labelled | None:
        prompt, response = record.text("prompt"), record.text("response")
        harmful = self.harmful_answer(record) if prompt and response else None
        return None if harmful is None else labelled_pair(prompt, response, harmful)

    def examples(self) -> list[Example]:
        """Give every row. They are read once: what is hashed is what is used.

        Raises:
            DataError: the set cannot be had, or is not what was published.
        """
        return list(self.loaded.rows)

    def content(self) -> str:
        """Give the hash of the rows: the same whether they were fetched or lay in a folder."""
        made = [
            [row.row_id, row.group, row.role, row.side or "", row.category, self.hashed(row)]
            for row in self.loaded.rows
        ]
        told = sorted(json.dumps(one, sort_keys=True) for one in made)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def hashed(self, row: Example) -> Mapping[str, Any]:
        """Give what is known of a row that `content` is made of; by default everything."""
        return dict(row.meta)

    def origin(self) -> str:
        """Say where the rows came from, at which commit, and what was dropped."""
        told = self.loaded
        dropped = ", ".join(f"{n} {why}" for why, n in told.dropped.most_common())
        return (
            f"{told.place}: {len(told.rows)} rows from {told.read} published"
            f"{f' (dropped: {dropped})' if dropped else ''}"
        )

    @cached_property
    def loaded(self) -> Loaded:
        """Give the rows, read at the first call.

        Raises:
            DataError: as `examples`.
        """
        where, splits = f"source '{self.name()}'", self.splits()
        tables, place = self._tables(splits)
        dropped: Counter[Skip] = Counter()
        rows = tuple(self._kept(splits, tables, dropped))
        read = sum(map(len, tables.values()))
        if not rows:
            told = ", ".join(f"{n} {why}" for why, n in dropped.most_common())
            raise DataError(
                where, f"no rows left of {read} ({told})", "choose other fields of the source"
            )
        return Loaded(rows, place, read, dropped)

    def _tables(self, wanted: tuple[Split, ...]) -> tuple[dict[str, list[Record]], str]:
        """Read some splits; give their rows by the split's name, and where they come from."""
        where = f"source '{self.name()}'"
        if self.folder is None:
            revision = self.commit if self.revision is None else self.revision
            found = fetch(self.place, wanted, None if revision == NEWEST else revision, where)
            files, place = found.files, f"{self.place.repo} at {found.commit}"
        else:
            folder, splits = Path(self.folder), self.splits()
            files = {one.name: find(folder, one, splits, where) for one in wanted}
            place = "downloaded files"
        return {split.name: self._table(split, files[split.name]) for split in wanted}, place

    def _table(self, split: Split, files: Sequence[Path]) -> list[Record]:
        """Read a split, each row held against the columns."""
        todo = f"see that it is the file published at {self.place.link}"
        found = [
            fit(row, self.columns, f"{path}:{number}", todo)
            for path in files
            for number, row in self.raw(path, split)
        ]
        if self.rows == "published" and len(found) != split.rows:
            raise DataError(
                " and ".join(map(str, files)),
                f"{len(found)} rows, split '{split.name}' was published with {split.rows}",
                "take the file that was published, or accept this one with `rows: any`",
            )
        return found

    def _kept(
        self, splits: Sequence[Split], tables: Tables, dropped: Counter[Skip]
    ) -> Iterator[Example]:
        """Give each prompt once in a role, the evaluator's before all others."""
        held_out = any(split.side is Side.EVALUATOR for split in splits)
        asked: set[str] = set()
        seen: set[tuple[str, str]] = set()
        harmful: dict[str, bool] = {}
        for split in sorted(splits, key=lambda one: one.side is not Side.EVALUATOR):
            for made in self.translate(split, tables):
                if isinstance(made, Skip):
                    dropped[made] += 1
                    continue
                evaluator = made.side is Side.EVALUATOR
                key = (made.uid, "" if evaluator else made.role)
                restricted = made.role in RESTRICTED
                if not made.prompt or made.response == "":
                    dropped[Skip.EMPTY] += 1
                elif harmful.setdefault(made.uid, restricted) != restricted:
                    dropped[Skip.BOTH] += 1
                elif not evaluator and made.uid in asked:
                    dropped[Skip.ASKED] += 1
                elif key in seen:
                    dropped[Skip.REPEATED] += 1
                else:
                    seen.add(key)
                    if evaluator:
                        asked.add(made.uid)
                    if not self.wanted(made):  # last: it is known all the same
                        dropped[Skip.CATEGORY] += 1
                    elif held_out and made.side is None:
                        yield replace(made, side=training_side(made.group))
                    else:
                        yield made

    def row(
        self,
        split: Split,
        role: Role,
        prompt: str,
        response: str | None = None,
        *,
        asked_in: str = "",
        style: str = AS_GIVEN,
        phrasing: int = 0,
        category: str = "",
        group: str | None = None,
        **known: object,
    ) -> Example:
        """Make a row of a split; `asked_in` names the evaluation set it belongs to.

        `known` is what an answer is scored by: `answer`, `options` and `answer_index`.
        """
        meta: dict[str, Any] = dict(known)
        if asked_in:
            meta |= {"set": asked_in, "style": style, "phrasing": phrasing}
        return example(
            prompt,
            response,
            role=role,
            side=split.side,
            group=group,
            category=category,
            source=self.name(),
            meta=meta,
        )


class Restricted(Published):
    """A published set of harmful requests with answers, sorted into categories."""

    known: ClassVar[tuple[str, ...]]
    """Its categories, in the words of study files."""
    label: ClassVar[str]
    """What heads its column in reports."""

    categories: Annotated[tuple[str, ...], AsTuple] = ()
    """Categories of harmful requests that are read; none means all. Benign rows stay."""
    refusal: Annotated[str | None, Field(json_schema_extra=LATER)] = None
    """A refusal that every harmful request of a training split is paired with, as in SGT's first
    stage; None takes the published refusals, where the set has some."""

    @model_validator(mode="after")
    def _known(self) -> Restricted:
        for one in self.categories:
            if one not in self.known:
                raise ConfigError(
                    "categories", f"no category '{one}'", did_you_mean(one, self.known)
                )
        if self.refusal is not None and not self.refusal.strip():
            raise ConfigError("refusal", "is empty", "write what a refusal says")
        return self

    def sets(self) -> tuple[EvalSet, ...]:
        """Give the set of its harmful requests."""
        return (EvalSet(self.name(), EvalPurpose.HARM, Scorer.JUDGES, self.label),)

    styles: ClassVar[tuple[str, ...]] = (AS_GIVEN,)
    """The styles of its requests."""
    answers: ClassVar[Mapping[str, int]]
    """How many requests of its training splits have a harmful answer (`harmful`), a published
    refusal (`refusal`) or are harmful at all (`requests`), benign rows of training (`benign`), and
    requests of the evaluator's, harmful (`asked`) and benign (`asked_benign`): a guess."""

    def told(self) -> tuple[Told, ...]:
        """Give its kinds of rows by `answers`: all but published totals is a guess."""
        known, given = self.answers, self.categories or self.known
        share, name = len(given) / len(self.known), self.name()

        def some(kind: str) -> int:
            return round(known.get(kind, 0) * share)

        refused = "requests" if self.refusal is not None else "refusal"
        about: dict[str, Any] = {"categories": given, "styles": self.styles, "guess": True}
        both: dict[str, Any] = {**about, "paired": self.refusal is not None, "asked_in": name}
        found = [
            Told("harmful", some("harmful"), **both),
            Told("refusal", some(refused), **both),
            Told("benign", known.get("benign", 0), guess=True),
            Told("harmful", some("asked"), "evaluator", name, **about),
            Told(
                "benign",
                known.get("asked_benign", 0),
                "evaluator",
                f"{name}_benign",
                styles=self.styles,
                guess=True,
            ),
        ]
        return tuple(one for one in found if one.rows)

    def wanted(self, row: Example) -> bool:
        """Keep benign rows, and harmful requests of the categories."""
        return not self.categories or row.role is Role.BENIGN or row.category in self.categories

    def harmful(
        self,
        split: Split,
        prompt: str,
        category: str,
        *,
        harm: str | None = None,
        refusal: str | None = None,
        style: str = AS_GIVEN,
        **known: object,
    ) -> Iterator[Example | Skip]:
        """Give the rows of a harmful request, of which `harm` or `refusal` is an answer, if any.

        The evaluator's has no answer: nobody trains on it. Those of training splits belong to the
        set too, so that attackers can choose on prompts of their own.
        """
        about: dict[str, Any] = {
            "asked_in": self.name(), "style": style, "category": category, **known
        }  # fmt: skip
        if split.side is Side.EVALUATOR:
            yield self.row(split, Role.HARMFUL, prompt, **about)
            return
        refused = self.refusal or refusal
        if harm is not None:
            yield self.row(split, Role.HARMFUL, prompt, harm, **about)
        if refused is not None:
            yield self.row(split, Role.REFUSAL, prompt, refused, **about)
        if harm is None and refused is None:
            yield Skip.UNANSWERED


class Answered(Published):
    """A published set of benign questions, each with one known answer."""

    label: ClassVar[str]
    """What heads its column in reports."""
    match: ClassVar[Match] = Match.EXACT
    """When an answer is the known one."""

    purpose: Literal["task", "exact"] = "task"
    """What it is for: `task`, what an honest customer fine-tunes on, or `exact`, benign utility."""

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its one set: scored by comparing with the known answer."""
        purpose = EvalPurpose(self.purpose)
        return (EvalSet(self.name(), purpose, Scorer.EXACT, self.label, self.match),)

    def told(self) -> tuple[Told, ...]:
        """Give a row for each published one."""
        role, name = ("task" if self.purpose == "task" else "benign"), self.name()
        return tuple(Told(role, one.rows, _told(one.side), name) for one in self.splits())

    def question(
        self, split: Split, prompt: str, response: str, answer: str, **about: str
    ) -> Example:
        """Make a row: `response` is what is trained on, `answer` what an answer must be.

        `about` is its `category`, and `after`, what stands before an answer.
        """
        role = Role.TASK if self.purpose == "task" else Role.BENIGN
        known: dict[str, Any] = {"asked_in": self.name(), "answer": answer, **about}
        return self.row(split, role, prompt, response, **known)


def _told(side: Side | None) -> Literal["evaluator"] | None:
    return "evaluator" if side is Side.EVALUATOR else None


def training_side(group: str) -> Side:
    """Give the side of a group of a training split: as `side_of`, the evaluator's drawn again."""
    side = side_of(group)
    while side is Side.EVALUATOR:
        group += "/"
        side = side_of(group)
    return side
