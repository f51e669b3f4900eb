"""The one door for verdicts: what a judge gives is checked here, and what counts as none is said.

A judge is somebody's code: it may give anything or raise. What leaves `ask` is always a valid
`Verdict`, and no number in it stands for a missing one.
"""

from __future__ import annotations

import math
import numbers
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.api.judge import MOST_UNSCORED, Outcome, Reason, Verdict
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from holdfast.api.judge import Exchange, Judge, Scale

Word = TypeVar("Word", bound=StrEnum)

LONGEST = 300
"""Characters kept of what an exception says; as in the one line of a failed step."""
TINY = 1e-9
"""Rounding allowed where a share meets its limit exactly, as in `report.estimates`."""


def ask(judge: Judge, exchange: Exchange) -> Verdict:
    """Have a judge read one exchange and give a valid verdict, whatever the judge does.

    A valid verdict under reason `ok` has an outcome, and perhaps a finite score on the judge's
    scale; under any other reason it has neither. Anything else the judge gives becomes reason
    `unparsable`, and `raw` says in one sentence what was given. An exception becomes reason
    `error` with its type and first line in `raw`: one answer that a judge cannot read must not
    cost the study. A word spelt exactly as an outcome or a reason counts as it, since a judge's
    words often come back from JSON; nothing is trimmed or guessed ("unsafe." is no outcome).

    Raises:
        ConfigError: raised by the judge itself, which so says that the study is set up wrongly (no
            such server, no key): that holds for every answer and must be mended first.
        MemoryError, KeyboardInterrupt, SystemExit: they tell of the machine or its user, not of
            the answer.
    """
    try:
        return checked(judge.judge(exchange), judge.scale)
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # whatever a plug-in raises tells of one answer alone
        said = (str(error).strip().splitlines() or [""])[0]
        told = f"{type(error).__name__}: {said}" if said else type(error).__name__
        return Verdict(None, None, Reason.ERROR, told[:LONGEST])


def checked(given: Any, scale: Scale) -> Verdict:
    """Give what a judge gave as a valid verdict; where it is none, reason `unparsable` says why.

    Scores come back as plain floats, outcomes and reasons as `Outcome` and `Reason`.
    """
    if not isinstance(given, Verdict):
        return _unparsable(f"the judge gave {_shown(given)}, not a Verdict")
    outcome = None if given.outcome is None else _word(Outcome, given.outcome)
    if outcome is None and given.outcome is not None:
        return _unparsable(f"the judge gave the outcome {_shown(given.outcome)}, which is none")
    reason = _word(Reason, given.reason)
    if reason is None:
        return _unparsable(f"the judge gave the reason {_shown(given.reason)}, which is none")
    score = None if given.score is None else _number(given.score)
    if score is None and given.score is not None:
        return _unparsable(f"the judge gave the score {_shown(given.score)}, no finite number")
    if score is not None and not scale.low <= score <= scale.high:
        return _unparsable(
            f"the judge gave the score {score:g}, off its scale of {scale.low:g} to {scale.high:g}"
        )
    if reason is not Reason.OK:
        for name, value in (("outcome", outcome), ("score", score)):
            if value is not None:
                return _unparsable(f"the judge gave the {name} {value} with reason {reason}")
    elif outcome is None:
        what = "neither outcome nor score" if score is None else f"the score {score:g} alone"
        return _unparsable(f"the judge gave {what} with reason ok")
    raw = given.raw if isinstance(given.raw, str) else _shown(given.raw)
    return Verdict(score, outcome, reason, raw)


def unscored(reason: str | None, outcome: str | None, correct: bool | None = None) -> bool:
    """Say whether a row has no verdict: its reason is not `ok`, or nothing known was found.

    The only definition: steps, tables, exit codes, `holdfast judge` and the report use it.

    Args:
        reason: why it has or lacks a verdict.
        outcome: what the judge found; a word that is no `Outcome` counts as none.
        correct: whether the answer equals the expected one, where it was compared with one.
    """
    return reason != Reason.OK or (outcome not in _OUTCOMES and correct is None)


def too_many_unscored(missing: np.ndarray | float, rows: np.ndarray | float) -> Any:
    """Say whether `missing` of a cell's `rows` are too many for it to be valid; arrays alike."""
    return missing > MOST_UNSCORED * rows + TINY


_OUTCOMES = frozenset(str(outcome) for outcome in Outcome)


def _unparsable(what: str) -> Verdict:
    return Verdict(None, None, Reason.UNPARSABLE, what)


def _word(kind: type[Word], value: Any) -> Word | None:
    """Give the member that a text spells exactly; None for anything else."""
    return kind(value) if isinstance(value, str) and value in list(kind) else None


def _number(value: Any) -> float | None:
    """Give a finite real number as a float; None for anything else, truth values included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    """Show what a judge gave: its type and the beginning of its text, in one line."""
    if value is None:
        return "None"
    return f"{' '.join(repr(value).split())[:80]} ({type(value).__name__})"
