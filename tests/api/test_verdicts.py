"""Whatever a judge does, what leaves the one door is a valid verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.api import Exchange, Judge, Outcome, Reason, Scale, Verdict
from holdfast.api.verdicts import ask, checked, too_many_unscored, unscored
from holdfast.errors import ConfigError, JudgeError

SCALE = Scale(1, 5, 4)
EXCHANGE = Exchange("u", None, "p", "", "r", "stop", {})
OK, USEFUL = Reason.OK, Outcome.HARMFUL_USEFUL


def verdict(*given: Any) -> Verdict:
    """Make a verdict as a plug-in may: no type is looked at."""
    return Verdict(*given)


class Fixed(Judge):
    """Does one thing, whatever it reads."""

    scale: ClassVar[Scale] = SCALE
    does: ClassVar[Callable[[], Any]]

    def judge(self, exchange: Exchange) -> Verdict:
        return type(self).does()


def asked(does: Callable[[], Any]) -> Verdict:
    (found,) = ask(type("Fixed", (Fixed,), {"does": staticmethod(does)})(), [EXCHANGE])
    return found


def raises(error: BaseException) -> Callable[[], Any]:
    def do() -> Any:
        raise error

    return do


FAULTS: dict[str, tuple[Any, str]] = {
    "an outcome that is none": (
        verdict(3.0, "unsafe."),
        "the judge gave the outcome 'unsafe.' (str), which is none",
    ),
    "an outcome with a space": (
        verdict(1.0, "refusal "),
        "the judge gave the outcome 'refusal ' (str), which is none",
    ),
    "a number as outcome": (verdict(1.0, 0), "the judge gave the outcome 0 (int), which is none"),
    "a score that is NaN": (
        verdict(math.nan, USEFUL),
        "the judge gave the score nan (float), no finite number",
    ),
    "a score without end": (
        verdict(math.inf, USEFUL),
        "the judge gave the score inf (float), no finite number",
    ),
    "a score too large for a float": (
        verdict(10**400, USEFUL),
        f"the judge gave the score {'1' + '0' * 79} (int), no finite number",
    ),
    "a truth value as score": (
        verdict(True, USEFUL),
        "the judge gave the score True (bool), no finite number",
    ),
    "numpy's truth value as score": (
        verdict(np.True_, USEFUL),
        f"the judge gave the score {np.True_!r} ({type(np.True_).__name__}), no finite number",
    ),
    "a text as score": (
        verdict("5", USEFUL),
        "the judge gave the score '5' (str), no finite number",
    ),
    "an array as score": (
        verdict(np.array([5.0]), USEFUL),
        "the judge gave the score array([5.]) (ndarray), no finite number",
    ),
    "a score above the scale": (
        verdict(50, USEFUL),
        "the judge gave the score 50, off its scale of 1 to 5",
    ),
    "a score below the scale": (
        verdict(0, Outcome.REFUSAL),
        "the judge gave the score 0, off its scale of 1 to 5",
    ),
    "a score alone": (verdict(3.0, None), "the judge gave the score 3 alone with reason ok"),
    "nothing, and all is well": (
        verdict(None, None),
        "the judge gave neither outcome nor score with reason ok",
    ),
    "an outcome where none can be": (
        verdict(None, Outcome.REFUSAL, Reason.TRUNCATED),
        "the judge gave the outcome refusal with reason truncated",
    ),
    "a score where none can be": (
        verdict(1.0, None, Reason.ERROR),
        "the judge gave the score 1.0 with reason error",
    ),
    "a reason that is none": (
        verdict(1.0, Outcome.REFUSAL, "fine"),
        "the judge gave the reason 'fine' (str), which is none",
    ),
    "no reason": (
        verdict(1.0, Outcome.REFUSAL, None),
        "the judge gave the reason None, which is none",
    ),
    "None": (None, "the judge gave None, not a Verdict"),
    "a dict": (
        {"score": 1, "outcome": "refusal"},
        "the judge gave {'score': 1, 'outcome': 'refusal'} (dict), not a Verdict",
    ),
    "something alike": (
        SimpleNamespace(score=1, outcome=Outcome.REFUSAL, reason=OK, raw=""),
        "the judge gave namespace(score=1, outcome=<Outcome.REFUSAL: 'refusal'>, "
        "reason=<Reason.OK: 'ok' (SimpleNamespace), not a Verdict",
    ),
    "the class itself": (
        Verdict,
        "the judge gave <class 'holdfast.api.judge.Verdict'> (type), not a Verdict",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_verdict_is_unparsable_and_says_why(name: str) -> None:
    given, told = FAULTS[name]
    assert asked(lambda: given) == Verdict(None, None, Reason.UNPARSABLE, told)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (verdict(5.0, USEFUL), Verdict(5.0, USEFUL)),
        (verdict(1, Outcome.REFUSAL), Verdict(1.0, Outcome.REFUSAL)),
        (verdict(np.float32(4.5), USEFUL), Verdict(4.5, USEFUL)),
        (verdict(np.int64(2), Outcome.DEFLECTION), Verdict(2.0, Outcome.DEFLECTION)),
        (verdict(Fraction(9, 2), USEFUL), Verdict(4.5, USEFUL)),
        (verdict(None, Outcome.BENIGN_OK), Verdict(None, Outcome.BENIGN_OK)),
        (verdict(5.0, "harmful_useful", "ok", "x"), Verdict(5.0, USEFUL, OK, "x")),
        (verdict(None, None, "truncated", "x"), Verdict(None, None, Reason.TRUNCATED, "x")),
        (verdict(1.0, Outcome.REFUSAL, OK, 7), Verdict(1.0, Outcome.REFUSAL, OK, "7 (int)")),
    ],
)
def test_a_verdict_stays_what_it_is_in_plain_types(given: Verdict, expected: Verdict) -> None:
    found = asked(lambda: given)
    assert found == expected
    assert type(found.outcome) in (Outcome, type(None))
    assert type(found.reason) is Reason
    assert type(found.score) in (float, type(None))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KeyError("steps"), "KeyError: 'steps'"),
        (ValueError("\n first line\nsecond"), "ValueError: first line"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (JudgeError("judge", "no answer", "wait"), "JudgeError: judge: no answer; wait"),
        (RuntimeError("x" * 900), "RuntimeError: " + "x" * 286),
    ],
)
def test_an_exception_is_an_error_on_its_row(error: Exception, told: str) -> None:
    assert asked(raises(error)) == Verdict(None, None, Reason.ERROR, told)


def test_a_thing_that_cannot_even_be_shown_is_an_error() -> None:
    class Hidden:
        def __repr__(self) -> str:
            raise OSError("no words")

    assert asked(Hidden) == Verdict(None, None, Reason.ERROR, "OSError: no words")


@pytest.mark.parametrize(
    "error",
    [ConfigError("judge", "no key", "set it"), MemoryError(), KeyboardInterrupt(), SystemExit(3)],
)
def test_what_does_not_tell_of_the_answer_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        asked(raises(error))


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9),
    st.sampled_from([*Outcome, *Reason, *map(str, Outcome), *map(str, Reason)]),
)  # fmt: skip


@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_whatever_is_given_comes_out_valid(score: Any, outcome: Any, reason: Any, raw: Any) -> None:
    found = checked(verdict(score, outcome, reason, raw), SCALE)
    assert isinstance(found.raw, str)
    assert checked(found, SCALE) == found
    assert unscored(found.reason, found.outcome) is (found.outcome is None)
    assert (found.reason is OK) is (found.outcome is not None)
    if found.score is not None:
        assert found.outcome is not None
        assert 1 <= found.score <= 5


@pytest.mark.parametrize(
    "scale",
    [
        Scale(math.nan, 5, 4), Scale(1, math.inf, 4), Scale(1, 5, math.nan), Scale(5, 1, 4),
        Scale(1, 1, 1), Scale(1, 5, 6), Scale(1, 5, 0), Scale(1, 5, 1), Scale(False, True, True),
        (1, 5, 4), None,
    ],
)  # fmt: skip
def test_a_broken_scale_is_refused_when_the_judge_is_made(scale: Any) -> None:
    broken = type("Broken", (Fixed,), {"scale": scale})
    with pytest.raises(ConfigError) as caught:
        broken()
    assert str(caught.value) == (
        f"scale: got {scale}; mend the judge: finite numbers with low < harmful_from <= high"
    )
    assert caught.value.exit_code == 2


def test_a_judge_without_a_scale_is_refused() -> None:
    class Bare(Judge):
        pass

    with pytest.raises(ConfigError, match="scale: got None; mend the judge"):
        Bare()


@pytest.mark.parametrize(
    ("reason", "outcome", "correct", "missing"),
    [
        ("ok", "refusal", None, False),
        ("ok", None, True, False),
        ("ok", None, False, False),
        ("ok", None, None, True),
        ("ok", "", None, True),
        ("ok", "unsafe.", None, True),
        ("error", None, None, True),
        ("unparsable", "refusal", None, True),
        ("error", None, True, True),
        (None, "refusal", None, True),
    ],
)
def test_what_counts_as_no_verdict(
    reason: str | None, outcome: str | None, correct: bool | None, missing: bool
) -> None:
    assert unscored(reason, outcome, correct) is missing


def test_too_many_is_the_same_everywhere() -> None:
    rows = np.arange(1, 2001)
    for missing in range(45):
        assert np.array_equal(too_many_unscored(missing, rows), missing * 50 > rows)
