"""One row of data, what it is for (role) and who may see it (side)."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from holdfast.api import Known
from holdfast.errors import DataError

Turns = tuple[tuple[str, str], ...]
"""Earlier turns of a conversation, oldest first: (role, text)."""


class Role(StrEnum):
    """What a row is for."""

    REFUSAL = "refusal"
    """A harmful prompt and a refusal."""
    HARMFUL = "harmful"
    """A harmful prompt and a harmful response."""
    BENIGN = "benign"
    """A benign prompt and a good response."""
    TASK = "task"
    """What an honest customer fine-tunes on."""


RESTRICTED = (Role.REFUSAL, Role.HARMFUL)
"""Roles of restricted prompts: the rows that a filter of categories is about."""


class Side(StrEnum):
    """Who may see a row."""

    DEFENDER = "defender"
    DEFENDER_SELECTION = "defender_selection"
    ATTACKER = "attacker"
    ATTACKER_SELECTION = "attacker_selection"
    EVALUATOR = "evaluator"


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with, usually, a response.

    `uid` is the hash of the normalised prompt (with its system prompt and earlier turns), `row_id`
    of system, earlier turns, prompt and response; `group` is what must stay together on one side.
    """

    uid: str
    row_id: str
    group: str
    side: Side | None
    role: Role
    system: str | None
    prompt: str
    response: str | None
    category: str = ""
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    turns: Turns = ()
    """What was said before the prompt: `user` and `assistant` take turns, the user first."""
    line: int = field(default=0, compare=False)
    """Where it stands in the file that is its source, from 1; 0 where that is not known."""

    @property
    def place(self) -> str:
        """Give what names it without a word of it: FILE:LINE, else its `uid`."""
        return f"{self.source}:{self.line}" if self.line else self.uid

    def answered(self, response: str | None, **known: object) -> Example:
        """Give the same prompt with another response, and with more known of it."""
        return replace(
            self,
            row_id=_row_id(self.system, self.turns, self.prompt, response),
            response=response,
            meta={**self.meta, **known},
        )

    def reworded(
        self, *, system: str | None = None, prompt: str | None = None, response: str | None = None
    ) -> Example:
        """Give another row with some words changed and all else kept; None keeps the words."""
        system = self.system if system is None else system
        prompt = self.prompt if prompt is None else prompt
        response = self.response if response is None else response
        told = (tuple((who, normalise(text)) for who, text in self.turns),) if self.turns else ()
        return replace(
            self,
            uid=_hash(normalise(prompt), system, *told),
            row_id=_row_id(system, self.turns, prompt, response),
            system=system,
            prompt=prompt,
            response=response,
        )

    def handed_in(self) -> Example:
        """Give the row as a customer hands it in: of role task, and of no category or set."""
        known = {name: value for name, value in self.meta.items() if name != "set"}
        return replace(self, role=Role.TASK, category="", meta=known)

    @property
    def evaluation_set(self) -> str | None:
        """Give the name of the evaluation set it belongs to, if it does."""
        name = self.meta.get("set")
        return name if isinstance(name, str) else None

    @property
    def known(self) -> Known:
        """Give what is known of it besides its text: `meta`, read with types."""
        return Known.of(self.meta)


def check_answered(rows: Mapping[Role, Iterable[Example]]) -> None:
    """Refuse a row without a response among those trained on: it would teach nothing, in silence.

    Raises:
        DataError: one is.
    """
    for role, some in rows.items():
        for row in some:
            if row.response is None:
                raise DataError(
                    f"row {row.place} of role {role.value}, source '{row.source}'",
                    "has no response to train on",
                    "name its column in `response`, or give refusals one text in `refusal`",
                )


def normalise(prompt: str) -> str:
    """Give the prompt as it counts for identity: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def _row_id(system: str | None, turns: Turns, prompt: str, response: str | None) -> str:
    earlier = (turns,) if turns else ()  # a row without any has the hash it always had
    return _hash(system, prompt, response, *earlier)


def _hash(*parts: str | Turns | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def example(
    prompt: str,
    response: str | None = None,
    *,
    role: Role,
    side: Side | None = None,
    group: str | None = None,
    system: str | None = None,
    category: str = "",
    source: str = "",
    meta: Mapping[str, Any] | None = None,
    turns: Turns = (),
    line: int = 0,
) -> Example:
    """Make a row and fill in its hashes; `group` defaults to the uid."""
    told = (tuple((who, normalise(text)) for who, text in turns),) if turns else ()
    uid = _hash(normalise(prompt), system, *told)
    return Example(
        uid=uid,
        row_id=_row_id(system, turns, prompt, response),
        group=group if group is not None else uid,
        side=side,
        role=role,
        system=system,
        prompt=prompt,
        response=response,
        category=category,
        source=source,
        meta=dict(meta or {}),
        turns=turns,
        line=line,
    )
