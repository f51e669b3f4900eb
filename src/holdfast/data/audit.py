"""Leakage: the same prompt, or nearly the same, among rows that should not share any.

Prompts are compared by their words alone: letters, digits and symbols, whatever the case, the
punctuation, the white space and the system prompt. A row of several turns has also each prompt
that the user says in it. Two are near where the Jaccard similarity of their sets of five characters
in a row, with one space between words, reaches a threshold.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from holdfast.data.example import Example

if TYPE_CHECKING:
    from datasketch import MinHash

EVALUATION, CALIBRATION, ATTACK, DEFENCE = "evaluation", "calibration", "attack", "defence"
"""What rows are for: asked, for choosing, for attacking, for defending."""
TRAINED = (ATTACK, DEFENCE)
"""Those that models are trained on."""
THRESHOLD = 0.7
"""Jaccard similarity from which prompts are near; source: BigCode's (Kocetkov et al. 2022)."""
SHINGLE = 5
"""Characters of a shingle; source: Leskovec, Rajaraman and Ullman, 3.2.2, for short texts."""
SCANNED = 4e9
"""Bits (prompts asked x others x shingles) up to which every pair is compared: 0.1 s for the demo,
less than it takes to import datasketch. Beyond, MinHash proposes the pairs."""
LEAST = 100
"""Others that are counted at least, so that no few of them make the table of bits a large one."""
HASHES = 64
"""Permutations of MinHash; source: ours."""
FOUND = 0.98
"""Least chance that a pair just at the threshold is proposed; source: ours."""
TRIED = 200
"""Proposed prompts with which one of the evaluation's is compared before it counts as a template,
no longer looked at; source: ours."""
SHOWN = 5
"""Pairs of rows that are named."""


class Said(NamedTuple):
    """A prompt of a row: its words apart by one space, and the row's `place`."""

    words: str
    place: str


Texts = Mapping[str, Said]
"""Prompts by what is compared: their words without white space."""


@dataclass(frozen=True, slots=True)
class Pair:
    """How many prompts of `first` the rows of `second` have too.

    `near` counts those that are near and not equal; None where nobody looked. `rows` are places of
    the rows of some pairs (`Example.place`), equal ones before near ones.
    """

    first: str
    second: str
    exact: int
    near: int | None
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Leakage:
    """What some groups of rows share: `prompts` are the distinct ones of each.

    Rows are taken as they were given, before those of two sides were dropped: `dropped` says which.
    `leaked` prompts of the evaluation are in what models are trained on, exactly or nearly.
    `proposed`: MinHash said which pairs to compare, else all were. `templates` of the evaluation's
    prompts then had more lookalikes than were compared.
    """

    threshold: float
    prompts: Mapping[str, int]
    pairs: tuple[Pair, ...]
    leaked: int
    proposed: bool = False
    templates: int = 0
    dropped: str = ""

    @property
    def share(self) -> float:
        """Give the share of the evaluation's prompts that leaked."""
        asked = self.prompts[EVALUATION]
        return self.leaked / asked if asked else 0.0

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Make one from plain data, as `dataclasses.asdict` or JSON has it."""
        pairs = []
        for pair in plain["pairs"]:
            told = dict(pair)
            rows = tuple((ours, theirs) for ours, theirs in told.pop("rows"))
            pairs.append(Pair(**told, rows=rows))
        told = dict(plain)
        del told["pairs"]
        return cls(**told, pairs=tuple(pairs))


def audit(
    groups: Mapping[str, Sequence[Example]], threshold: float = THRESHOLD, dropped: str = ""
) -> Leakage:
    """Compare the prompts of some groups, `EVALUATION` among them.

    Equal prompts are counted between every two groups, near ones between the evaluation's and each
    other. A small job compares every pair; a larger one (`SCANNED`) those that MinHash proposes,
    which misses 2 in 100 of the pairs just at the threshold, and fewer above.

    Args:
        groups: rows by what they are for; the order decides which of two is `first`.
        threshold: Jaccard similarity, above 0, from which two prompts are near.
        dropped: what of these rows were dropped, and for what (`Pool.drops`).
    """
    texts = {name: distinct(rows) for name, rows in groups.items()}
    whole = {name: texts[name] | turns(rows) for name, rows in groups.items()}
    asked = texts[EVALUATION]
    search = _Search(asked, threshold, sum(map(len, whole.values())) - len(whole[EVALUATION]))
    pairs, leaked = [], set()
    for first, second in combinations(texts, 2):
        ours, theirs = texts[first], whole[second]
        equal = [text for text in ours if text in theirs]
        found, near = [(text, text) for text in equal], None
        if first == EVALUATION:
            hits = search.near(theirs)
            near = len(hits)
            found += hits.items()
            if second in TRAINED:
                leaked.update(mine for mine, _ in found)
        rows = tuple((ours[mine].place, theirs[other].place) for mine, other in found[:SHOWN])
        pairs.append(Pair(first, second, len(equal), near, rows))
    prompts = {name: len(some) for name, some in texts.items()}
    proposed = not search.scan
    return Leakage(
        threshold, prompts, tuple(pairs), len(leaked), proposed, search.templates, dropped
    )


def distinct(rows: Iterable[Example]) -> dict[str, Said]:
    """Give every distinct prompt, earlier turns before it, with the first row that has it."""
    return _distinct(
        (" ".join([*(text for _, text in row.turns), row.prompt]), row) for row in rows
    )


def turns(rows: Iterable[Example]) -> dict[str, Said]:
    """Give every prompt that a user says in a row of several turns, by itself."""
    return _distinct(
        (text, row)
        for row in rows
        if row.turns
        for who, text in (*row.turns, ("user", row.prompt))
        if who == "user"
    )


def _distinct(said: Iterable[tuple[str, Example]]) -> dict[str, Said]:
    found: dict[str, Said] = {}
    for text, row in said:
        words = compared(text)
        found.setdefault(squeezed(words), Said(words, row.place))
    return found


class _Letters(dict[int, "int | str | None"]):
    """For `str.translate`: punctuation and white space become a space, what cannot be seen goes."""

    def __missing__(self, code: int) -> int | str | None:
        kind = unicodedata.category(chr(code))
        self[code] = None if kind == "Cf" else " " if kind[0] in "PZC" else code
        return self[code]


_LETTERS = _Letters({ord("'"): None, ord("’"): None})


def compared(text: str) -> str:
    """Give a text as it is compared: NFKC, case folded, words apart by one space.

    A text of punctuation alone stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_LETTERS).split()) or " ".join(folded.split())


_BETWEEN = re.compile(r"(?<!\d) | (?!\d)")


def squeezed(words: str) -> str:
    """Give words without the spaces between them, but for those that tell two numbers apart."""
    return _BETWEEN.sub("", words)


def shingles(text: str) -> set[str]:
    """Give the runs of five characters of a text; a shorter text is one."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def similar(ours: set[str], theirs: set[str], threshold: float) -> bool:
    """Say whether the Jaccard similarity of two sets reaches a threshold."""
    both = len(ours & theirs)
    return both / (len(ours) + len(theirs) - both) >= threshold


class _Search:
    """Finds which of some prompts have a near one among others, of which there are `size`."""

    def __init__(self, asked: Texts, threshold: float, size: int) -> None:
        self.threshold = threshold
        self.sets = {text: shingles(said.words) for text, said in asked.items()}
        self.tried = dict.fromkeys(asked, 0)
        known = len(set().union(*self.sets.values()))
        self.scan = len(asked) * max(size, LEAST) * known <= SCANNED
        self._hashes = (
            {} if self.scan else dict(zip(asked, _hashed(self.sets.values()), strict=True))
        )

    @property
    def templates(self) -> int:
        """Give how many prompts are no longer looked at."""
        return sum(tried >= TRIED for tried in self.tried.values())

    def near(self, others: Texts) -> dict[str, str]:
        """Give each prompt that has a near, not an equal one among others, with the first such."""
        left = {text: some for text, some in self.sets.items() if text not in others}
        if not left or not others:
            return {}
        if self.scan:
            return _scanned(left, others, self.threshold)
        return self._proposed(left, others)

    def _proposed(self, left: Mapping[str, set[str]], others: Texts) -> dict[str, str]:
        """Compare what an index of MinHash bands proposes, each prompt until its first near one."""
        from datasketch import MinHashLSH

        rows = band(self.threshold)
        index = MinHashLSH(num_perm=HASHES, params=(HASHES // rows, rows))
        for text in left:
            if self.tried[text] < TRIED:
                index.insert(text, self._hashes[text], check_duplication=False)
        found: dict[str, str] = {}
        some = (shingles(said.words) for said in others.values())
        for other, hashes in zip(others, _hashed(some), strict=True):
            proposed: list[Any] = index.query(hashes)
            theirs = shingles(others[other].words) if proposed else set()
            for text in proposed:
                self.tried[text] += 1
                if similar(left[text], theirs, self.threshold):
                    found[text] = other
                if text in found or self.tried[text] >= TRIED:
                    index.remove(text)
        return found


def band(threshold: float) -> int:
    """Give the hashes of a band: the most with which a pair at the threshold is hardly missed."""
    sizes = range(1, HASHES // 2 + 1)
    fit = [r for r in sizes if 1 - (1 - threshold**r) ** (HASHES // r) >= FOUND]
    return max(fit, default=1)


def _hashed(sets: Iterable[set[str]]) -> Iterator[MinHash]:
    from datasketch import MinHash

    coded = ([one.encode("utf-8", "surrogatepass") for one in some] for some in sets)
    return MinHash.generator(coded, num_perm=HASHES, hashfunc=zlib.crc32, scheme="affine32")


def _scanned(asked: Mapping[str, set[str]], others: Texts, threshold: float) -> dict[str, str]:
    """Compare every pair; of each prompt those shingles are bits that any prompt asked has."""
    bits = {one: 1 << i for i, one in enumerate(sorted(set().union(*asked.values())))}
    left = [(text, sum(map(bits.__getitem__, some)), len(some)) for text, some in asked.items()]
    found: dict[str, str] = {}
    for other, said in others.items():
        some = shingles(said.words)
        theirs, size = sum(bits[one] for one in some if one in bits), len(some)
        near = [
            text
            for text, ours, own in left
            if (both := (ours & theirs).bit_count()) / (own + size - both) >= threshold
        ]
        if near:
            found.update(dict.fromkeys(near, other))
            left = [one for one in left if one[0] not in found]
    return found
