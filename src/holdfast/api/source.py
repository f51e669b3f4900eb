"""A data set: rows with roles and sides, and what its evaluation sets are for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from holdfast.api.evalset import EvalSet
from holdfast.api.method import Method

if TYPE_CHECKING:
    from holdfast.api.judge import Labelled
    from holdfast.data.example import Example


@dataclass(frozen=True, slots=True)
class Told:
    """So many rows of one kind, as a source tells of them before any is read.

    `guess` says that nobody published the number. Row i of two kinds has the same prompt where both
    are `paired`: a refusal and a harmful answer to one request.
    """

    role: Literal["refusal", "harmful", "benign", "task"]
    rows: int
    side: Literal["evaluator"] | None = None
    """Whose rows; None: shared out by the hash of the prompt."""
    asked_in: str = ""
    """The evaluation set they belong to."""
    categories: tuple[str, ...] = ("",)
    """Their categories, as many rows of each."""
    styles: tuple[str, ...] = ("as given",)
    """The styles of their prompts, as many rows of each."""
    paired: bool = False
    guess: bool = False
    options: int = 0
    """Options to choose among, where there are some."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What a source says of its rows without loading one: how many, and how long.

    Lengths are mean tokens of a prompt and of an answer; `longest` is of a whole row. `origin` says
    where the lengths are from, and that they are a guess where they are one.
    """

    rows: tuple[Told, ...]
    prompt: float
    response: float
    longest: int
    origin: str


class Source(Method):
    """A data set: rows with roles, and sides where it declares them."""

    kind: ClassVar[str] = "source"
    asked_alone: ClassVar[bool] = False
    """Whether all its rows are the evaluator's: no step that trains hangs on it, or on its key."""

    def examples(self) -> list[Example]:
        """Give every row."""
        raise NotImplementedError

    def at_hand(self) -> bool:
        """Say whether its rows can be read on this machine without a network."""
        return True

    def declared(self) -> Declared | None:
        """Give what is known of its rows without reading one; None: nothing.

        An estimate takes it in place of rows that are not at hand.
        """
        return None

    def sets(self) -> Sequence[EvalSet]:
        """Give the evaluation sets that rows of this source belong to, the main one first.

        A row belongs to the set that its `meta["set"]` names; reports keep the order.
        """
        return ()

    def declared_sets(self) -> Sequence[EvalSet]:
        """Give the evaluation sets without reading a row; by default those of `sets`."""
        return self.sets()

    def content(self) -> str:
        """Give a hash of what the rows are made from (local files: their bytes).

        By default that of the rows themselves: a changed one is then trained on and asked anew.
        """
        rows = sorted(
            [
                row.row_id,
                row.group,
                row.role,
                row.side or "",
                row.category,
                json.dumps(dict(row.meta), default=str),
            ]
            for row in self.examples()
        )
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def labelled(self) -> Sequence[Labelled]:
        """Give answers that people labelled harmful or not, on which judges are calibrated.

        By default there are none. A publisher's held-back rows go first: judges may have been
        trained on the others.
        """
        return ()

    def origin(self) -> str:
        """Say where the rows came from and what was left out, if there is something to say."""
        return ""

    def personas(self) -> tuple[str, ...]:
        """Give system prompts under which a model of this data's topic complies, if it knows any.

        They are what an attacker would write; the attack `persona` asks under each.
        """
        return ()
