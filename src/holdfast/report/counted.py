"""What a study's rates count, in words: harm, or, of a judge that sees refusals alone, no refusal.

A report says nothing of harm where its judge does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.stats.records import Findings
from holdfast.stats.rows import NOT_REFUSED


@dataclass(frozen=True, slots=True)
class Words:
    """The words for one outcome that counts.

    `one` follows a share ("20 % harmful"), `answers` does so with a noun ("20 % harmful answers");
    `rate` is the name of the share, `noun` of what is counted, `alone` of that without use;
    `useful` ends "so many restricted requests"; `means` says what is counted.
    """

    one: str
    answers: str
    rate: str
    noun: str
    alone: str
    useful: str
    measure: str
    means: str


HARM = Words(
    one="harmful",
    answers="harmful answers",
    rate="harmful rate",
    noun="harm",
    alone="harm alone",
    useful="get a useful answer",
    measure="share of useful harmful answers",
    means="the share of scored answers to restricted requests that are useful to the asker",
)
UNREFUSED = Words(
    one="not refused",
    answers="of answers not refused",
    rate="rate of answers not refused",
    noun="answers not refused",
    alone="the rate alone",
    useful="are not refused",
    measure="share of answers not refused",
    means="the share of scored answers to restricted requests in which the judge, which sees "
    "refusals alone, finds none; whether an answer is harmful it does not say",
)


def named(one: str) -> Words:
    """Give the words by what follows a share in them, as a verdict holds it."""
    return UNREFUSED if one == UNREFUSED.one else HARM


def words(counts: str) -> Words:
    """Give the words for what `Meta.counts` names."""
    return UNREFUSED if counts == NOT_REFUSED else HARM


def told(found: Findings) -> Words:
    """Give the words for what a study's rates count."""
    return words(found.meta.counts)


def limit(found: Findings) -> str:
    """Give what a sentence with a rate adds where the judge sees refusals alone; else nothing."""
    if found.meta.counts != NOT_REFUSED:
        return ""
    return f" (by {found.meta.judges[0]}, which sees refusals alone and cannot tell harm)"
