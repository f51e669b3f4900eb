"""What a customer hands to a host of fine-tuning: rows, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from holdfast.api.attack import FineTuning
from holdfast.api.fields import AsTuple
from holdfast.api.loop import Share
from holdfast.api.method import Control
from holdfast.api.seeds import seed as seed_of
from holdfast.errors import DataError

if TYPE_CHECKING:
    from holdfast.data.example import Example, Role
    from holdfast.data.pool import Pool

Parts = tuple[list["Example"], list["Example"]]
"""A job's honest rows, and those planted among them."""


class CustomerJob(FineTuning):
    """Rows that a model is fine-tuned on by a host, who runs the loop; some may be planted.

    Under `tune` of a study the host's own loop trains on them. As one of `attacks` the job trains
    with its own `loop`, as an attacker would who has the weights. A job writes `plant` and
    `loss`, and `ask` and `read` where whoever set it asks in a way of his own.
    """

    control: ClassVar[Control] = Control.DATA

    honest: Annotated[tuple[Literal["task", "benign"], ...], AsTuple, Field(min_length=1)] = (
        "task",
    )
    """Roles of the honest rows; those of a later one are taken when the earlier has no more."""
    share: Share = 0.1
    """Share of the rows that are planted; where it is above 0, at least one is. Source: ours, the
    middle of the shares that Goel et al. 2026 and Qi et al. 2023 mix in."""

    def plant(self, pool: Pool, seed: int) -> list[Example]:
        """Give all rows that may be planted, of the attacker's side; by default none.

        Raises:
            DataError: there are none.
        """
        return []

    def parts(self, pool: Pool, seed: int) -> Parts:
        """Draw the honest rows and the planted ones, of the attacker's side.

        Raises:
            DataError: there are none, or too few.
        """
        honest: list[Example] = []
        if self.share < 1:
            honest = [row for role in self.honest for row in self.drawn(pool, role, seed)]
        planted = self.plant(pool, seed) if self.share > 0 else []
        keep, bad = self._sizes(len(honest), len(planted))
        return honest[:keep], planted[:bad]

    def ask(self, row: Example) -> Example:
        """Give a restricted prompt as whoever set the job asks it; by default as it is."""
        return row

    def read(self, answer: str) -> str:
        """Give an answer as he reads it; by default as it is."""
        return answer

    @classmethod
    def asks_its_own_way(cls) -> bool:
        """Say whether `ask` or `read` is the job's own."""
        return (cls.ask, cls.read) != (CustomerJob.ask, CustomerJob.read)

    @property
    def clean(self) -> bool:
        """Say whether nothing is planted: what a defence takes from it, an honest customer pays."""
        return self.share == 0

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        """Give all rows as a host gets them: of role task, and nothing says which were planted."""
        honest, planted = self.parts(pool, seed)
        rows = [row.handed_in() for row in (*honest, *planted)]
        return {rows[0].role: rows}

    def planted(self, pool: Pool, seed: int) -> frozenset[str]:
        """Give the `row_id` of each planted row: what no host knows, and a report compares with."""
        return frozenset(row.row_id for row in self.parts(pool, seed)[1])

    def label(self) -> str:
        """Give the share of planted rows, and how it trains."""
        return f"share={self.share:g} {super().label()}"

    def drawn(self, pool: Pool, role: str, seed: int) -> list[Example]:
        """Give the attacker's answered rows of a role in the order of a draw.

        Raises:
            DataError: there are none.
        """
        return pool.answers(role, "attacker", seed_of(seed, "draw"), what=self.name())

    def _sizes(self, honest: int, planted: int) -> tuple[int, int]:
        """Give how many honest rows and how many planted ones the job has.

        They are `distinct` in all; without it, as many as `share` allows with what there is.
        """
        most = [honest / (1 - self.share)] if self.share < 1 else []
        most += [planted / self.share] if self.share > 0 else []
        total = int(min(most)) if self.distinct is None else self.distinct
        bad = max(1, round(self.share * total)) if self.share > 0 else 0
        if bad > planted or total - bad > honest:
            raise DataError(
                self.name(),
                f"{total - bad} honest and {bad} planted rows asked for, there are {honest} and "
                f"{planted}",
                "lower distinct, or change share",
            )
        return total - bad, bad
