"""What a command shows of training while it goes on."""

from __future__ import annotations

import pytest

from holdfast.cli import progress
from holdfast.cli.progress import Training


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown(clock: list[float], capsys: pytest.CaptureFixture[str], each: float, total: int) -> str:
    show = Training()
    for done in range(1, total + 1):
        clock[0] += each
        show("sft", done, total)
    return capsys.readouterr().err


def test_short_training_shows_every_tenth_step(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(clock, capsys, 0.1, 40).splitlines()
    assert lines == [f"sft {done}/40" for done in range(4, 41, 4)]


def test_long_training_says_early_how_long_it_is_and_then_shows_a_line_a_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(clock, capsys, 28.0, 1875).splitlines()
    assert lines[:3] == [
        "sft 3/1875, about 15 hours left",
        "sft 6/1875, about 15 hours left",
        "sft 9/1875, about 15 hours left",
    ]
    assert len(lines) == 1875 // 3 + 6  # and each tenth that is no third
    assert lines[-2:] == ["sft 1870/1875, about 2 min left", "sft 1873/1875"]


def test_a_part_that_goes_on_is_timed_from_there(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    show = Training()
    for part, first in (("trigger", 1), ("sgt", 501)):
        for done in (first, first + 1, first + 2):
            clock[0] += 2.0
            show(part, done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "trigger 3/1000, about 33 min left",
        "sgt 503/1000, about 17 min left",
    ]


def test_what_follows_the_last_step_is_told(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    show = Training()
    show("sft", 1, 1)
    show("measuring", 0, 0)
    assert capsys.readouterr().err.splitlines() == ["sft 1/1", "measuring ..."]


def test_days_are_told_as_days(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    show = Training()
    for done in (1, 2, 3):
        clock[0] += 86.4
        show("sft", done, 3003)
    assert capsys.readouterr().err.splitlines()[-1] == "sft 3/3003, about 3 days left"


def test_what_is_left_is_reckoned_from_how_large_the_others_are(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = progress.Lines()
    lines.start(4, {"attack a": 9.0, "attack b": 90.0, "attack c": 1.0})
    for label, at in (("attack a", 90.0), ("attack c", 100.0), ("attack b", 960.0)):
        clock[0] = at
        lines.finish(0, label, 1.0, ok=True)
    lines.finish(0, "judge a", 1.0, ok=True)
    assert capsys.readouterr().err.splitlines() == [
        "[1/4] attack a: 1.0 s",  # a tenth of the work tells nothing yet
        "[2/4] attack c: 1.0 s, about 15 min left",
        "[3/4] attack b: 1.0 s",
        "[4/4] judge a: 1.0 s",
    ]
