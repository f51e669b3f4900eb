"""The one door for verdicts: what a judge gives is checked here, and what counts as none is said.

A judge is somebody's code: it may give anything or raise. What leaves `ask` is always one valid
`Verdict` for each exchange, and no number in it stands for a missing one.
"""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from holdfast.api.judge import MOST_UNSCORED, Judge, Outcome, Reason, Verdict
from holdfast.errors import ConfigError, EndpointError, one_line, raised

if TYPE_CHECKING:
    import numpy as np

    from holdfast.api.judge import Exchange, Scale

Word = TypeVar("Word", bound=StrEnum)
log = logging.getLogger(__name__)

TINY = 1e-9
"""Rounding allowed where a share meets its limit exactly, as in `report.estimates`."""


def ask(judge: Judge, exchanges: Sequence[Exchange]) -> list[Verdict]:
    """Have an open judge read exchanges and give a valid verdict on each, whatever the judge does.

    A valid verdict under reason `ok` has an outcome, and perhaps a finite score on the judge's
    scale; under any other reason it has neither. Anything else the judge gives becomes reason
    `unparsable`, and `raw` says in one sentence what was given. A word spelt exactly as an outcome
    or a reason counts as it, since a judge's words often come back from JSON; nothing is trimmed
    or guessed ("unsafe." is no outcome).

    An exception becomes reason `error` with its type and first line in `raw`, which is kept beside
    the answers and not shown: it may quote them. What is logged is where it was raised. Where the
    judge reads many at once, each is then asked alone: one answer that a judge cannot read costs
    that answer and no other. Verdicts of another number than the exchanges belong to nobody knows
    which: all of them become reason `error`.

    Raises:
        ConfigError: raised by the judge itself, which so says that the study is set up wrongly (no
            such server, no key): that holds for every answer and must be mended first.
        EndpointError: raised by the judge itself: its server answers no more, or its budget is
            spent. The answers wait for another run.
        MemoryError, KeyboardInterrupt, SystemExit: they tell of the machine or its user, not of
            the answer.
    """
    exchanges = list(exchanges)
    if len(exchanges) > 1 and type(judge).judge_many is not Judge.judge_many:
        try:
            given = judge.judge_many(exchanges)
        except (ConfigError, EndpointError, MemoryError):
            raise
        except Exception as error:  # whatever a plug-in raises: alone it shows which answer it was
            log.warning("judge '%s' failed on %d answers at once (%s): each is asked alone",
                        judge.name(), len(exchanges), raised(error))  # fmt: skip
        else:
            return _each(given, len(exchanges), judge.scale)
    return [_alone(judge, exchange) for exchange in exchanges]


def _alone(judge: Judge, exchange: Exchange) -> Verdict:
    try:
        given = judge.judge_many([exchange])
    except (ConfigError, EndpointError, MemoryError):
        raise
    except Exception as error:  # whatever a plug-in raises tells of one answer alone
        return _error(one_line(error))
    return _each(given, 1, judge.scale)[0]


def _each(given: object, wanted: int, scale: Scale) -> list[Verdict]:
    """Check what a judge gave for so many exchanges, one by one."""
    if not isinstance(given, list | tuple):
        what = f"the judge gave {_kind(given)} for {_answers(wanted)}, not a list"
        return [_error(what)] * wanted
    if len(given) != wanted:
        what = f"the judge gave {len(given)} verdicts for {_answers(wanted)}"
        return [_error(what)] * wanted
    return [_valid(one, scale) for one in given]


def _valid(given: object, scale: Scale) -> Verdict:
    try:
        return checked(given, scale)
    except Exception as error:  # what was given cannot even be shown
        return _error(one_line(error))


def _error(what: str) -> Verdict:
    return Verdict(None, None, Reason.ERROR, what)


def _kind(given: object) -> str:
    return "None" if given is None else f"a {type(given).__name__}"


def _answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count} answers"


def checked(given: object, scale: Scale) -> Verdict:
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


def too_many_unscored(missing: np.ndarray | float, rows: np.ndarray | float) -> bool | np.ndarray:
    """Say whether `missing` of a cell's `rows` are too many for it to be valid; arrays alike."""
    return missing > MOST_UNSCORED * rows + TINY


_OUTCOMES = frozenset(str(outcome) for outcome in Outcome)


def _unparsable(what: str) -> Verdict:
    return Verdict(None, None, Reason.UNPARSABLE, what)


def _word(kind: type[Word], value: object) -> Word | None:
    """Give the member that a text spells exactly; None for anything else."""
    return kind(value) if isinstance(value, str) and value in list(kind) else None


def _number(value: object) -> float | None:
    """Give a finite real number as a float; None for anything else, truth values included."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    """Show what a judge gave: its type and the beginning of its text, in one line."""
    if value is None:
        return "None"
    return f"{' '.join(repr(value).split())[:80]} ({type(value).__name__})"
