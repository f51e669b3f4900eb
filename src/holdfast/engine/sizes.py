"""How long rows are in tokens: counted where row and tokenizer are here, else as declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.api import Declared, Rows, Trainable
from holdfast.data.example import Example
from holdfast.errors import ModelError
from holdfast.study.nodes import Start
from holdfast.study.standins import is_standing

COUNTED = 64
"""Rows whose tokens are counted, evenly from all; the mean of so many is near enough."""
LETTERS = 4
"""Letters of a token where no tokenizer is here: English in vocabularies of 32,000 and more."""
AROUND = 8
"""Tokens that a prompt format puts around a row, about."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean tokens of a prompt and of an answer, and the most of a whole row and of an answer."""

    prompt: float
    response: float
    longest: int
    said: int

    def among(self, rows: int) -> tuple[int, int]:
        """Give the tokens of a row, and of its answer, in the largest of many passes of so many.

        Of one row that is the longest; of several, whose lengths even out, the mean and the
        longest's distance to it over the root of their number.
        """
        root = max(1, rows) ** 0.5
        mean = self.prompt + self.response
        return (
            round(mean + max(0.0, self.longest - mean) / root),
            round(self.response + max(0.0, self.said - self.response) / root),
        )


class Counter:
    """Counts rows in the tokens of a model.

    `guessed` says of which models a token was taken to be so many letters.
    """

    def __init__(self, declared: Mapping[str, Declared]) -> None:
        self._declared = declared
        self._counts: dict[str, Callable[[str], int]] = {}
        self.guessed: set[str] = set()

    def of(self, start: Start, rows: Sequence[Example]) -> Lengths:
        """Give the lengths of some rows: those of stand-ins as their source declares them."""
        if not rows:
            return Lengths(0.0, 0.0, 0, 0)
        count = self._count(start)
        step = max(1, len(rows) // COUNTED)
        longest = sorted(rows, key=_letters)[-COUNTED // 8 :]
        mean = [self._one(row, count) for row in rows[::step]]
        most = [self._one(row, count, most=True) for row in longest]
        return Lengths(
            AROUND + sum(asked for asked, _ in mean) / len(mean),
            sum(said for _, said in mean) / len(mean),
            AROUND + round(max(asked + said for asked, said in most)),
            round(max(said for _, said in most)),
        )

    def _one(
        self, row: Example, count: Callable[[str], int], *, most: bool = False
    ) -> tuple[float, float]:
        declared = self._declared.get(row.source)
        if declared is None:
            before = (row.system or "") + "".join(text for _, text in row.turns)
            return count(before + row.prompt), count(row.response or "")
        said = declared.response if row.response is not None else 0.0
        times = declared.longest / (declared.prompt + said) if most else 1.0
        return declared.prompt * times, said * times

    def _count(self, start: Start) -> Callable[[str], int]:
        if start.name not in self._counts:
            self._counts[start.name] = self._tokens(start)
        return self._counts[start.name]

    def _tokens(self, start: Start) -> Callable[[str], int]:
        if is_standing(start):

            def by_letters(text: str) -> int:
                self.guessed.add(start.name)
                return -(-len(text) // LETTERS)

            return by_letters
        from tokenizers import Tokenizer

        path = start.files.folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no class of its own
            cause = f"cannot be read ({str(error).splitlines()[0]})"
            raise ModelError(str(path), cause, "copy it again") from None
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _letters(row: Example) -> int:
    return len(row.prompt) + len(row.response or "")


def step_rows(
    method: Trainable, rows: Mapping[Any, Sequence[Example]], lengths: Callable[..., Lengths]
) -> tuple[dict[str, Rows], Lengths]:
    """Give the rows of each role in an optimiser step, and the lengths of them all.

    Args:
        rows: what the method draws, by role.
        lengths: rows -> their lengths.
    """
    loop, every = method.loop, sum(len(some) for some in rows.values())
    found: dict[str, Rows] = {}
    whole: list[tuple[float, Lengths]] = []
    for role, some in rows.items():
        own = lengths(some)
        share = len(some) / every * len(rows) if loop.batching == "mixed" else 1.0
        found[str(role)] = Rows(loop.batch * share, own.prompt, own.response)
        whole.append((share / len(rows), own))
    return found, Lengths(
        sum(share * own.prompt for share, own in whole),
        sum(share * own.response for share, own in whole),
        max((own.longest for _, own in whole), default=0),
        max((own.said for _, own in whole), default=0),
    )
