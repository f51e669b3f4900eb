"""All rows, each on one side; drawing is nested in n and independent of file order."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from holdfast.api import EvalSet, Known, Source
from holdfast.data.example import RESTRICTED, Example, Role, Side
from holdfast.data.records import words_shown
from holdfast.errors import ConfigError, DataError, did_you_mean

SHARES = (
    (Side.DEFENDER, 0.40),
    (Side.ATTACKER, 0.25),
    (Side.EVALUATOR, 0.25),
    (Side.DEFENDER_SELECTION, 0.05),
    (Side.ATTACKER_SELECTION, 0.05),
)
"""How groups whose source declares no side are shared out by their hash."""

TRAINING = (Side.DEFENDER, Side.ATTACKER)
"""Sides whose rows are trained on."""

OWN = "give every side prompts and groups of its own"
"""What to do about rows on two sides."""

Where = Callable[[Example], bool]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that its side lost: its prompt, or else its group, is on `others` too."""

    row: Example
    side: Side
    others: tuple[Side, ...]
    same: str

    @property
    def why(self) -> str:
        """Say what is on which other sides."""
        return f"{self.same}s are also on side {' and '.join(self.others)}"


def side_of(group: str) -> Side:
    """Give the side of a group that no source has placed: a function of its name alone."""
    point = int.from_bytes(hashlib.sha256(f"side/{group}".encode()).digest()[:8], "big") / 2**64
    for side, share in SHARES:
        if point < share:
            return side
        point -= share
    return SHARES[-1][0]


class Pool:
    """Rows by role and side.

    A group seen on two sides belongs to EVALUATOR: its rows of every other side are dropped, and
    where none was the evaluator's, all of them. The same prompt on two sides counts likewise.
    `dropped` says how many rows that cost, by side, and `drops` for what. `personas` and `sets` are
    what the sources declare of the kind (`Source.personas`, `Source.sets`); `sets` by name, in
    their order.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        personas: Sequence[str] = (),
        sets: Iterable[EvalSet] = (),
    ) -> None:
        self.personas = tuple(personas)
        self.sets: Mapping[str, EvalSet] = _by_name(sets)
        placed = [(row, row.side or side_of(row.group)) for row in sorted(examples, key=_place)]
        if not placed:
            raise DataError("pool", "no rows", "check the sources")
        sides: dict[str, set[Side]] = {}
        for row, side in placed:
            for name in (f"group/{row.group}", f"uid/{row.uid}"):
                sides.setdefault(name, set()).add(side)
        self._rows: dict[Side, list[Example]] = {side: [] for side in Side}
        self._lost: dict[Side, list[Dropped]] = {side: [] for side in Side}
        for row, side in placed:
            same = "prompt" if len(sides[f"uid/{row.uid}"]) > 1 else "group"
            seen = sides[f"uid/{row.uid}" if same == "prompt" else f"group/{row.group}"]
            if len(seen) > 1 and side is not Side.EVALUATOR:
                others = tuple(one for one in Side if one in seen and one is not side)
                self._lost[side].append(Dropped(row, side, others, same))
                continue
            self._rows[side].append(row)

    @classmethod
    def of(cls, sources: Sequence[Source]) -> Self:
        """Give the rows of some sources, with everything they declare."""
        return cls(
            (row for source in sources for row in source.examples()),
            [persona for source in sources for persona in source.personas()],
            [one for source in sources for one in source.sets()],
        )

    def rows(self, side: Side, where: Where | None = None) -> list[Example]:
        """Give all rows of a side, in an order that no file decides."""
        return [row for row in self._rows[side] if where is None or where(row)]

    def given(self, side: Side) -> list[Example]:
        """Give all rows of a side as the sources gave them, those that were dropped too."""
        return [*self._rows[side], *(one.row for one in self._lost[side])]

    @property
    def dropped(self) -> Counter[Side]:
        """Give how many rows each side lost."""
        return Counter({side: len(lost) for side, lost in self._lost.items() if lost})

    @property
    def drops(self) -> str:
        """Say how many rows of each side were dropped, and for what; empty where none was."""
        told = [
            f"{n} of {len(self.given(side))} rows of side {side.value} (their {why})"
            for side, lost in self._lost.items()
            for why, n in Counter(one.why for one in lost).items()
        ]
        return f"dropped: {', '.join(told)}" if told else ""

    def rehearsal(self) -> Pool:
        """Give a pool in which the defender's own rows are the attacker's, and no others are there.

        So a defender can try what it will meet without seeing anybody else's rows.
        """
        plays = {
            Side.DEFENDER: Side.ATTACKER,
            Side.DEFENDER_SELECTION: Side.ATTACKER_SELECTION,
        }
        rows = (replace(row, side=to) for side, to in plays.items() for row in self._rows[side])
        return Pool(rows, self.personas, self.sets.values())

    def only(self, categories: Sequence[str], where: str = "categories") -> Self:
        """Give a pool in which restricted rows are of these categories; none named keeps all.

        Benign and task rows stay, whatever their category.

        Raises:
            ConfigError: no restricted row, on any side, is of a category.
        """
        if not categories:
            return self

        def kept(row: Example) -> bool:
            return row.role not in RESTRICTED or row.category in categories

        rows = (row for some in self._rows.values() for row in some)
        check_categories(categories, (row for row in rows if row.role in RESTRICTED), where)
        made = copy.copy(self)
        made._rows = {side: list(filter(kept, some)) for side, some in self._rows.items()}
        made._lost = {
            side: [one for one in lost if kept(one.row)] for side, lost in self._lost.items()
        }
        return made

    def brought_by(self, sources: Sequence[str], where: str = "sources") -> Self:
        """Give a pool of the rows that these sources brought; none named keeps all.

        Raises:
            ConfigError: no row, on any side, is of a source.
        """
        if not sources:
            return self
        known = {row.source for some in self._rows.values() for row in some}
        for one in sources:
            if one not in known:
                raise ConfigError(where, f"no row is of source '{one}'", did_you_mean(one, known))
        made = copy.copy(self)
        made._rows = {
            side: [row for row in some if row.source in sources]
            for side, some in self._rows.items()
        }
        made._lost = {
            side: [one for one in lost if one.row.source in sources]
            for side, lost in self._lost.items()
        }
        return made

    def answered(self, besides: Collection[str] = ()) -> Self:
        """Give a pool without prompts alone among what is trained on: they would teach nothing.

        Rows without a response are left out on the sides of `TRAINING`, but for roles in `besides`
        and for a role that has no answered row there.
        """
        kept: dict[Side, list[Example]] = {}
        lost: dict[Side, list[Dropped]] = {}
        for side in TRAINING:
            roles = {row.role for row in self._rows[side] if row.response is not None}
            roles -= {Role(name) for name in besides}
            rows = self._rows[side]
            kept[side] = [r for r in rows if r.response is not None or r.role not in roles]
            lost[side] = [
                one
                for one in self._lost[side]
                if one.row.response is not None or one.row.role not in roles
            ]
        if all(len(rows) == len(self._rows[side]) for side, rows in kept.items()):
            return self
        made = copy.copy(self)
        made._rows, made._lost = self._rows | kept, self._lost | lost
        return made

    def keep_back(self, role: Role, share: float, least: int, most: int, seed: int) -> Pool:
        """Give a pool in which some of the defender's groups of a role are on its selection side.

        They are about `share` of the defender's rows of the role, `least` to `most`, whole groups
        in the order of hash(seed, group). Of a pool that has such rows already, the first `most`
        as drawn stay: what is measured on them costs as much as some training.

        Raises:
            DataError: fewer than `least` would be left to train on.
        """
        if self.has(role, Side.DEFENDER_SELECTION):
            return self._cut_down(role, Side.DEFENDER_SELECTION, most, seed)
        rows = [row for row in self._rows[Side.DEFENDER] if row.role is role]
        wanted = min(most, max(least, round(share * len(rows))))
        groups = Counter(row.group for row in rows)
        kept: set[str] = set()
        number = 0
        for group in sorted(groups, key=lambda name: _order(seed, name)):
            if number < wanted:
                kept.add(group)
                number += groups[group]
        if len(rows) - number < least:
            raise DataError(
                f"rows of role {role.value}",
                f"{len(rows)} of {len(groups)} different prompts: too few to keep {wanted} back "
                f"and train on {least} or more others",
                f"give {2 * least} different prompts or more, or measure nothing with --held-out 0",
            )
        made = copy.copy(self)
        moved = [
            replace(row, side=Side.DEFENDER_SELECTION)
            for row in self._rows[Side.DEFENDER]
            if row.group in kept and row.role is role
        ]
        stay = [r for r in self._rows[Side.DEFENDER] if r.role is not role or r.group not in kept]
        both = sorted([*self._rows[Side.DEFENDER_SELECTION], *moved], key=_place)
        made._rows = self._rows | {Side.DEFENDER: stay, Side.DEFENDER_SELECTION: both}
        return made

    def _cut_down(self, role: Role, side: Side, most: int, seed: int) -> Pool:
        """Give a pool with the first `most` rows of a role on a side, as drawn; all of others."""
        rows = [row for row in self._rows[side] if row.role is role]
        if len(rows) <= most:
            return self
        stay = {row.row_id for row in self.draw(role, side, None, seed)[:most]}
        made = copy.copy(self)
        both = [r for r in self._rows[side] if r.role is not role or r.row_id in stay]
        made._rows = self._rows | {side: both}
        return made

    def has(self, role: Role, side: Side) -> bool:
        """Say whether a side has any row of a role."""
        return any(row.role is role for row in self._rows[side])

    def commonest(self, role: Role, side: Side) -> str | None:
        """Give the response that most rows of a role have; of equally many, the first as sorted.

        None where no row has one.
        """
        texts = (r.response for r in self._rows[side] if r.role is role and r.response is not None)
        each = sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))
        return each[0][0] if each else None

    def draw(
        self,
        role: Role,
        side: Side,
        n: int | None,
        seed: int,
        *,
        where: Where | None = None,
        what: str = "rows",
    ) -> list[Example]:
        """Give n distinct rows in the order of hash(seed, row_id); None gives all.

        The first n of a larger draw are the smaller draw. Asking for more than there are is a
        DataError that says how many there are.
        """
        rows: dict[str, Example] = {}
        for row in self._rows[side]:
            if row.role is role and (where is None or where(row)):
                rows.setdefault(row.row_id, row)
        lost = self._why(side, lambda row: row.role is role and (where is None or where(row)))
        if not rows:
            raise DataError(
                f"{what} of role {role.value}, side {side.value}",
                lost or "no rows",
                OWN
                if lost
                else f"add a source that has some, or check its column map "
                f"(pool: {self.summary()})",
            )
        if n is not None and n > len(rows):
            raise DataError(
                f"{what} of role {role.value}, side {side.value}",
                f"{n} distinct rows asked for, the pool has {len(rows)}{lost and f' ({lost})'}",
                f"ask for at most {len(rows)}{lost and f', or {OWN}'}",
            )
        return sorted(rows.values(), key=lambda row: _order(seed, row.row_id))[:n]

    def answers(self, role: str, side: str, seed: int, *, what: str) -> list[Example]:
        """Give all answered rows of a role and a side, by their names, as `draw` orders them.

        Raises:
            DataError: there are none.
        """

        def answered(row: Example) -> bool:
            return row.response is not None

        return self.draw(Role(role), Side(side), None, seed, where=answered, what=what)

    def paired(
        self, first: Role, second: Role, side: Side, n: int | None, seed: int
    ) -> list[tuple[Example, Example]]:
        """Give n pairs of rows of two roles that share a prompt, one pair a prompt."""
        partners: dict[str, Example] = {}
        answers = (row for row in self._rows[side] if row.role is second)
        for row in sorted(answers, key=lambda row: _order(seed, row.row_id)):
            partners.setdefault(row.uid, row)
        pairs: dict[str, tuple[Example, Example]] = {}
        for row in self.draw(first, side, None, seed):
            if row.uid in partners:
                pairs.setdefault(row.uid, (row, partners[row.uid]))
        if not pairs or (n is not None and n > len(pairs)):
            lost = self._why(side, lambda row: row.role in (first, second))
            raise DataError(
                f"pairs of roles {first.value} and {second.value}, side {side.value}",
                f"{n if n is not None else 'some'} asked for, the pool has {len(pairs)}"
                f"{lost and f' ({lost})'}",
                f"give both responses for the same prompts{lost and f', and {OWN}'}",
            )
        return list(pairs.values())[:n]

    def evaluation(
        self,
        name: str,
        side: Side,
        n: int | None,
        seed: int,
        *,
        styles: Sequence[str] | None = None,
        phrasings: int | None = None,
        categories: Sequence[str] = (),
    ) -> list[Example]:
        """Give an evaluation set: `n` clusters (groups), each with the same styles and phrasings.

        Clusters are taken whole, in the order of hash(seed, group), so a larger set contains a
        smaller one. `phrasings` keeps the first so many of each style, `categories` the rows of
        these; none named keeps all.

        Raises:
            ConfigError: none of its rows is of a category.
            DataError: no such rows, fewer than asked for, or one of which too little is known for
                what its source says the set is for.
        """
        place = f"evaluation set '{name}', side {side.value}"
        rows = [row for row in self._rows[side] if row.evaluation_set == name]
        lost = self._why(side, lambda row: row.evaluation_set == name)
        if not rows:
            named = {row.evaluation_set for row in self._rows[side]}
            near = words_shown(one for one in named if one)
            todo = OWN if lost else did_you_mean(name, near)
            raise DataError(place, lost or "no rows", todo)
        if categories:
            check_categories(categories, rows, f"{place}: categories")
            rows = [row for row in rows if row.category in categories]
        wanted = [(row, self._known(row, place)) for row in rows]
        kept = [(row, known) for row, known in wanted if styles is None or known.style in styles]
        ranks: dict[tuple[str, str], list[int | str]] = {}
        for row, known in kept:
            seen = ranks.setdefault((row.group, known.style), [])
            if known.phrasing not in seen:
                seen.append(known.phrasing)
        for seen in ranks.values():
            seen.sort(key=lambda phrasing: (isinstance(phrasing, str), phrasing))
        drawn = [
            row
            for row, known in kept
            if phrasings is None or ranks[row.group, known.style].index(known.phrasing) < phrasings
        ]
        groups = sorted({row.group for row in drawn}, key=lambda group: _order(seed, group))
        if n is not None and n > len(groups):
            raise DataError(
                place,
                f"{n} groups asked for, the pool has {len(groups)}{lost and f' ({lost})'}",
                f"ask for at most {len(groups)}{lost and f', or {OWN}'}",
            )
        chosen = {group: rank for rank, group in enumerate(groups[:n])}
        unique: dict[str, Example] = {}
        for row in drawn:
            if row.group in chosen:
                unique.setdefault(row.uid, row)
        return sorted(unique.values(), key=lambda row: (chosen[row.group], row.uid))

    def _known(self, row: Example, place: str) -> Known:
        """Give what is known of a row of an evaluation set, enough for what the set is for."""
        where = f"{place}, row {row.place} of source '{row.source}'"
        try:
            known = row.known
        except DataError as error:
            raise DataError(f"{where}: {error.where}", error.what, error.todo) from None
        declared = self.sets.get(known.set)
        if declared is not None:
            declared.check(known, where)
        return known

    def _why(self, side: Side, where: Where) -> str:
        """Say how many of some rows of a side were dropped, and for what; empty where none was."""
        lost = Counter(one.why for one in self._lost[side] if where(one.row))
        if not lost:
            return ""
        every = sum(map(where, self.given(side)))
        told = " and ".join(f"{n} because their {why}" for why, n in lost.items())
        if len(lost) == 1:
            told = f"because their {next(iter(lost))}"
        return f"{sum(lost.values())} of {every} rows were dropped, {told}"

    def summary(self) -> str:
        """Say how many rows each role has on each side."""
        counts = Counter((row.role, side) for side, rows in self._rows.items() for row in rows)
        return ", ".join(f"{r.value}/{s.value} {n}" for (r, s), n in sorted(counts.items()))


def check_categories(wanted: Iterable[str], rows: Iterable[Example], where: str) -> None:
    """Refuse a category that none of some rows has.

    Raises:
        ConfigError: the first such, with the nearest that there is.
    """
    known = {row.category for row in rows} - {""}
    for one in wanted:
        if one not in known:
            near = did_you_mean(one, words_shown(known))
            raise ConfigError(where, f"no row is of category '{one}'", near)


def _by_name(sets: Iterable[EvalSet]) -> dict[str, EvalSet]:
    """Give sets by name; the same one may be brought by several sources."""
    found: dict[str, EvalSet] = {}
    for one in sets:
        first = found.setdefault(one.name, one)
        if (first.purpose, first.scorer) != (one.purpose, one.scorer):
            raise DataError(
                f"evaluation set '{one.name}'",
                f"two sources bring it, for '{first.purpose}' and for '{one.purpose}'",
                "name one of them otherwise",
            )
    return found


def _place(row: Example) -> tuple[str, ...]:
    """Give what sorts rows, equal ones too, so that no file's order decides anything."""
    meta = json.dumps(dict(row.meta), sort_keys=True, default=str)
    side = row.side or ""
    return (row.uid, row.row_id, row.role, row.group, side, row.category, row.source, meta)


@functools.lru_cache(maxsize=1 << 18)
def _order(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()
