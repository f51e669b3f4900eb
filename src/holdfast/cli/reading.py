"""Have a judge read the answers of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.cli.progress import Training
from holdfast.errors import InvalidResultsError

if TYPE_CHECKING:
    from holdfast.api import Exchange, Judge, Verdict

CHUNK = 256
"""Answers given to a judge at once, as a study's `chunk`: a failure asks no more of them again."""


def read(
    judge: Judge,
    exchanges: Sequence[Exchange],
    device: str,
    keep: Callable[[Sequence[Exchange], Sequence[Verdict]], None] = lambda *_: None,
) -> list[Verdict]:
    """Give the verdict on each exchange, in order; the judge is open while it reads.

    `keep` is told of every chunk as soon as it is read. Where there is nothing to read the judge is
    not opened. It shows how far a judge has come that tells it, and each of many chunks.
    """
    from holdfast.api.hearing import heard
    from holdfast.api.verdicts import ask

    show, total = Training(), len(exchanges)
    said: list[Verdict] = []
    if not exchanges:
        return said
    judge.check()
    with judge.opened(device):
        for first in range(0, total, CHUNK):
            part = exchanges[first : first + CHUNK]
            shown = first

            def tell(read: int, first: int = first) -> None:
                nonlocal shown
                shown = first + read
                show("verdicts", shown, total)

            with heard(tell, len(part)):
                found = ask(judge, part)
            keep(part, found)
            said += found
            if total > CHUNK and shown < first + len(part):
                tell(len(part))
    return said


def line_of(exchange: Exchange, verdict: Verdict) -> dict[str, Any]:
    """Give a verdict as a line of a file."""
    return {
        "uid": exchange.example_uid,
        "score": verdict.score,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "raw": verdict.raw,
    }


def check_scored(verdicts: Sequence[Verdict], where: str, see: str) -> None:
    """Refuse verdicts of which too many are missing.

    Raises:
        InvalidResultsError: more than a cell of a study may have.
    """
    from holdfast.api.verdicts import too_many_unscored, unscored

    why = Counter(str(one.reason) for one in verdicts if unscored(one.reason, one.outcome))
    missing = why.total()
    if too_many_unscored(missing, len(verdicts)):
        told = ", ".join(f"{count} {reason}" for reason, count in why.most_common())
        what = f"{missing} of {len(verdicts)} answers have no verdict ({told})"
        raise InvalidResultsError(where, what, see)
