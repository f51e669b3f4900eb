"""AdvBench: 520 harmful behaviours, many of them the same one in other words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from holdfast.api import EvalPurpose, EvalSet, Scorer
from holdfast.data.columns import Kind, Record, Text
from holdfast.data.example import Example, Role, Side, normalise
from holdfast.data.hub import Place, Split
from holdfast.data.published import Lengths, Published, Skip, Tables

ALIKE = 0.6
"""Words that two prompts share, of all they have, from which they are one group; ours."""


class AdvBench(Published):
    """Prompts that share most of their words are one group, which tests and intervals count once.

    `target`, the start of an affirmative answer, is no answer and is not read.
    """

    place: ClassVar[Place] = Place("llm-attacks/llm-attacks", host="github", through="files")
    commit: ClassVar[str | None] = "098262edf85f807224e70ecd87b9d83716bf6b73"
    columns: ClassVar[dict[str, Kind]] = {"goal": Text(), "target": Text()}
    licence: ClassVar[str] = "MIT"
    size: ClassVar[str] = "520 rows, 80 kB"
    lengths: ClassVar[Lengths] = (15, 0, 60)

    def splits(self) -> tuple[Split, ...]:
        """Give its one file."""
        file = "data/advbench/harmful_behaviors.csv"  # spelling: theirs
        return (Split("test", 520, files=(file,), side=Side.EVALUATOR),)

    def sets(self) -> tuple[EvalSet, ...]:
        """Give its one set."""
        return (EvalSet(self.name(), EvalPurpose.HARM, Scorer.JUDGES, "AdvBench"),)

    def translate(self, split: Split, tables: Tables) -> Iterator[Example | Skip]:
        """Give the evaluator's row of each goal; a group's prompts are its phrasings."""
        goals = [record.text("goal") for record in tables[split.name]]
        seen: dict[int, int] = {}
        for goal, first in zip(goals, groups(goals), strict=True):
            phrasing = seen.setdefault(first, 0)
            seen[first] += 1
            yield self.row(
                split,
                Role.HARMFUL,
                goal,
                asked_in=self.name(),
                phrasing=phrasing,
                group=f"{self.name()}/{first}",
            )

    def read(self, record: Record, split: Split) -> Iterator[Example | Skip]:
        """Never called: a row's group hangs on all the others."""
        raise NotImplementedError


def groups(prompts: Sequence[str]) -> list[int]:
    """Give, for each prompt, the place of the first one of its group.

    Two prompts are alike from `ALIKE` on (Jaccard index of their words), and a group holds all
    that a chain of alike ones connects.
    """
    words = [frozenset(normalise(prompt).split()) for prompt in prompts]
    first = list(range(len(prompts)))

    def root(i: int) -> int:
        while first[i] != i:
            i = first[i]
        return i

    for i, mine in enumerate(words):
        for j in range(i):
            both = len(mine & words[j])
            if both and both >= ALIKE * len(mine | words[j]):
                low, high = sorted((root(i), root(j)))
                first[high] = low
    return [root(i) for i in range(len(prompts))]
