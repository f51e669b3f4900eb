"""A data set: rows with roles and sides, and what its evaluation sets are for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from holdfast.api.evalset import EvalSet
from holdfast.api.method import Method

if TYPE_CHECKING:
    from holdfast.api.judge import Labelled
    from holdfast.data.example import Example


class Source(Method):
    """A data set: rows with roles, and sides where it declares them."""

    kind: ClassVar[str] = "source"
    asked_alone: ClassVar[bool] = False
    """Whether all its rows are the evaluator's: no step that trains hangs on it, or on its key."""

    def examples(self) -> list[Example]:
        """Give every row."""
        raise NotImplementedError

    def sets(self) -> Sequence[EvalSet]:
        """Give the evaluation sets that rows of this source belong to, the main one first.

        A row belongs to the set that its `meta["set"]` names; reports keep the order.
        """
        return ()

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
