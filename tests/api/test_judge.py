"""A judge's life: opened before it reads, many at once, closed however it ends."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from pydantic import PrivateAttr

from holdfast.api import Exchange, Judge, Outcome, Reason, Scale, Verdict
from holdfast.api.verdicts import ask
from holdfast.errors import ConfigError, JudgeError

GIVEN = [Exchange(str(i), None, f"p{i}", "", "r", "stop", {}) for i in range(5)]
NO = Verdict(1.0, Outcome.REFUSAL)


def error(what: str) -> Verdict:
    return Verdict(None, None, Reason.ERROR, what)


class Counted(Judge):
    """Notes what is done to it; `many` is what reads many at once."""

    scale: ClassVar[Scale] = Scale(1, 5, 4)
    many: ClassVar[Callable[[Sequence[Exchange]], Any]]
    _noted: list[Any] = PrivateAttr(default_factory=list)

    def open(self, device: str) -> None:
        self._noted.append(device)

    def judge_many(self, exchanges: Sequence[Exchange]) -> Any:
        self._noted.append(len(exchanges))
        return type(self).many(exchanges)

    def close(self) -> None:
        self._noted.append("closed")


def counted(many: Callable[[Sequence[Exchange]], Any]) -> Counted:
    own = {"many": staticmethod(many), "__module__": __name__}
    return type("Counted", (Counted,), own)()


class OneByOne(Judge):
    """A plug-in that knows of nothing but one exchange."""

    scale: ClassVar[Scale] = Scale(1, 5, 4)
    _read: list[str] = PrivateAttr(default_factory=list)

    def judge(self, exchange: Exchange) -> Verdict:
        self._read.append(exchange.prompt)
        if exchange.prompt == "p2":
            raise KeyError("p2")
        return NO


def test_what_a_judge_keeps_is_no_part_of_what_it_is() -> None:
    judge = counted(lambda some: [NO for _ in some])
    before = judge.identity()
    with judge.opened("cuda:1") as reader:
        assert reader is judge
        assert ask(reader, GIVEN) == [NO] * 5
    assert judge._noted == ["cuda:1", 5, "closed"]
    assert judge.identity() == before


def test_a_judge_of_one_exchange_needs_nothing_more() -> None:
    judge = OneByOne()
    with judge.opened() as reader:
        assert ask(reader, GIVEN) == [NO, NO, error("KeyError: 'p2'"), NO, NO]
    assert judge._read == ["p0", "p1", "p2", "p3", "p4"]  # each once, the bad one too


def test_an_exception_among_many_costs_one_row(caplog: pytest.LogCaptureFixture) -> None:
    def many(some: Sequence[Exchange]) -> list[Verdict]:
        if any(one.prompt == "p3" for one in some):
            raise RuntimeError("out of memory\nat line 4")
        return [NO for _ in some]

    judge = counted(many)
    assert ask(judge, GIVEN) == [NO, NO, NO, error("RuntimeError: out of memory"), NO]
    assert judge._noted == [5, 1, 1, 1, 1, 1]
    (line,) = caplog.messages
    assert re.fullmatch(
        r"judge 'test_judge' failed on 5 answers at once \(RuntimeError in test_judge.py, line"
        r" \d+\): each is asked alone",
        line,
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([NO] * 4, "the judge gave 4 verdicts for 5 answers"),
        ([NO] * 6, "the judge gave 6 verdicts for 5 answers"),
        ([], "the judge gave 0 verdicts for 5 answers"),
        (None, "the judge gave None for 5 answers, not a list"),
        (NO, "the judge gave a Verdict for 5 answers, not a list"),
        ((one for one in [NO] * 5), "the judge gave a generator for 5 answers, not a list"),
    ],
)
def test_verdicts_of_another_number_belong_to_nobody(given: Any, told: str) -> None:
    judge = counted(lambda _: given)
    assert ask(judge, GIVEN) == [error(told)] * 5
    assert judge._noted == [5]  # not asked again: it did not fail


def test_one_verdict_too_many_on_one_answer() -> None:
    found = ask(counted(lambda _: [NO, NO]), GIVEN[:1])
    assert found == [error("the judge gave 2 verdicts for 1 answer")]


def test_each_of_many_is_checked() -> None:
    class Hidden:
        def __repr__(self) -> str:
            raise OSError("no words")

    found = ask(counted(lambda _: [NO, None, Hidden(), Verdict(9.0, Outcome.REFUSAL), NO]), GIVEN)
    assert [one.reason for one in found] == ["ok", "unparsable", "error", "unparsable", "ok"]
    assert found[2].raw == "OSError: no words"


def test_nothing_to_read_asks_nobody() -> None:
    judge = counted(lambda some: [NO for _ in some])
    assert ask(judge, []) == []
    assert judge._noted == []


@pytest.mark.parametrize("kind", [ConfigError, MemoryError, KeyboardInterrupt])
def test_what_does_not_tell_of_one_answer_passes_and_closes(kind: type[BaseException]) -> None:
    raised = ConfigError("judge", "no key", "set it") if kind is ConfigError else kind()

    def many(_: Sequence[Exchange]) -> None:
        raise raised

    judge = counted(many)
    with pytest.raises(kind), judge.opened() as reader:
        ask(reader, GIVEN)
    assert judge._noted == ["cpu", 5, "closed"]


def test_a_judge_that_cannot_be_opened_is_one_line_and_not_closed() -> None:
    class Shut(Counted):
        def open(self, device: str) -> None:
            raise OSError("no such file: guard\nerrno 2")

    judge = Shut()
    with pytest.raises(JudgeError) as caught, judge.opened("cuda"):
        pytest.fail("the body ran")
    assert str(caught.value) == (
        "judge 'test_judge': cannot be opened on cuda (OSError: no such file: guard); mend what "
        "it needs and run again"
    )
    assert judge._noted == []


def test_its_own_words_are_kept_when_it_cannot_be_opened() -> None:
    class Shut(Counted):
        def open(self, device: str) -> None:
            raise ConfigError("judge", "no key", "set it")

    with pytest.raises(ConfigError, match="judge: no key; set it"), Shut().opened():
        pytest.fail("the body ran")


def test_an_error_while_closing_is_logged_and_costs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stuck(OneByOne):
        def close(self) -> None:
            raise TimeoutError("still busy")

    with caplog.at_level(logging.WARNING), Stuck().opened() as reader:
        assert ask(reader, GIVEN[:1]) == [NO]
    (line,) = caplog.messages
    assert line.startswith("judge 'test_judge' cannot be closed (TimeoutError in test_judge.py, li")
