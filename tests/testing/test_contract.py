"""The contract finds what is broken and says it in one line each."""

from __future__ import annotations

from typing import ClassVar

import pytest

from holdfast.api import Exchange, Judge, Outcome, Run, Scale, State, Verdict
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.testing import ContractError, check_defence, check_judge


class Misspelt(RefusalSFT):
    """A signal that its diagnostic does not give."""

    signal: ClassVar[str] = "moveed"

    def diagnostic(self, run: Run, state: State) -> dict[str, float]:
        """Give one number."""
        return {"moved": 1.0}


class Stateful(RefusalSFT):
    """A diagnostic that needs a state, which it has not on another's model."""

    signal: ClassVar[str] = "moved"

    def setup(self, run: Run) -> State:
        """Make one."""
        return {"moved": 1.0}

    def diagnostic(self, run: Run, state: State) -> dict[str, float]:
        """Read it."""
        return {"moved": state["moved"]}


class Wordy(Judge):
    """Gives a word in place of a verdict."""

    scale: ClassVar[Scale] = Scale(0, 1, 0.5)

    def judge(self, exchange: Exchange) -> Verdict:
        """Give a word."""
        return "unsafe"  # type: ignore[return-value]


class Fickle(Judge):
    """Says something else each time."""

    scale: ClassVar[Scale] = Scale(0, 1000, 1)

    def judge(self, exchange: Exchange) -> Verdict:
        """Count its own verdicts."""
        COUNT.append(0)
        return Verdict(float(len(COUNT)), Outcome.DEFLECTION)


COUNT: list[int] = []


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (Misspelt, "signal 'moveed' is no key of its diagnostic; did you mean 'moved'?"),
        (Stateful, "on a model it did not make, state is None and diagnostic raises TypeError"),
    ],
)
def test_a_signal_that_says_nothing_is_found(kind: type[RefusalSFT], line: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_defence(kind)
    said = str(caught.value).splitlines()
    assert len(said) == 1
    assert line in said[0]


@pytest.mark.parametrize(
    ("kind", "line"), [(Wordy, "gives str, no Verdict"), (Fickle, "alone or among others it says")]
)
def test_a_judge_that_breaks_its_promise_is_found(kind: type[Judge], line: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_judge(kind)
    assert line in str(caught.value)


def test_what_is_no_defence_is_refused() -> None:
    with pytest.raises(ContractError) as caught:
        check_defence(Wordy)  # type: ignore[arg-type]
    assert str(caught.value) == "Wordy: is no Defence; derive it from Defence"
