"""Thousands of requests, of which a third goes wrong, and a kill in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.endpoint.rude import score
from tests.endpoint.serving import Server, serving

TRIALS = 9
"""Requests that try what a server does."""
SCRIPT = str(Path(__file__).with_name("judge_all.py"))


def start(
    server: Server, folder: Path, cases: int, concurrency: int, cache: Path | None = None
) -> subprocess.Popen[bytes]:
    """Begin to judge, in a process of its own; what it says is in `log`."""
    endpoint = {
        "model": "judge-1", "base_url": server.url, "key_env": None, "wait": 0.02, "timeout": 8.0,
        "concurrency": concurrency, "cache": str(cache or folder / "c"),
    }  # fmt: skip
    told = {"endpoint": endpoint, "cases": cases, "out": str(folder / "out.json")}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([sys.executable, SCRIPT, json.dumps(told)], stderr=log)


def result(folder: Path) -> Any:
    return json.loads((folder / "out.json").read_text())


def none_lost_none_made_up(grades: dict[str, Any], cases: int) -> None:
    assert grades == {str(n): ["ok", float(score(str(n)))] for n in range(cases)}


def answers(path: Path) -> int:
    with sqlite3.connect(path) as file:
        (count,) = file.execute("SELECT COUNT(*) FROM answers").fetchone()
    file.close()
    return count


def spent(path: Path) -> dict[str, int]:
    with sqlite3.connect(path) as file:
        row = file.execute("SELECT requests, guessed, repeated FROM spent").fetchone()
    file.close()
    return dict(zip(("requests", "guessed", "repeated"), row, strict=True))


def test_a_third_goes_wrong_and_none_is_lost(tmp_path: Path) -> None:
    with serving(rate=0.3) as server:
        assert start(server, tmp_path, 300, 16).wait() == 0
        stats = server.stats()
    none_lost_none_made_up(result(tmp_path)["grades"], 300)
    assert stats["most"] <= 16
    assert len(stats["faulty"]) >= 10  # nearly every kind came
    assert spent(tmp_path / "c")["requests"] == sum(stats["sendings"].values())


def test_after_a_kill_nothing_that_came_is_asked_again(tmp_path: Path) -> None:
    concurrency, cases = 8, 120
    with serving(delay=0.05) as server:
        process = start(server, tmp_path, cases, concurrency)
        until = time.monotonic() + 120
        while not (tmp_path / "c").exists() or answers_or_none(tmp_path / "c") < 40:
            assert time.monotonic() < until
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        came = kept(tmp_path / "c")
        before = server.stats()["sendings"]
        assert 40 <= len(came) < cases
        assert start(server, tmp_path, cases, concurrency).wait() == 0
        after = server.stats()["sendings"]
    none_lost_none_made_up(result(tmp_path)["grades"], cases)
    assert kept(tmp_path / "c").items() >= came.items()  # what came is as it came
    twice = {case for case, sent in after.items() if sent > 1 and case != "none"}
    assert len(twice) <= concurrency
    assert len(twice) <= spent(tmp_path / "c")["repeated"] <= concurrency
    for case in cases_of(came):
        assert after[case] == before[case]


@pytest.mark.parametrize("killed", [False, True])
def test_two_commands_at_once_ask_each_case_once(killed: bool, tmp_path: Path) -> None:
    """A neighbour that lives is waited for; what a dead one had on its way is asked again."""
    cases, concurrency = 60, 4
    with serving(delay=0.3) as server:
        folders = [tmp_path / "one", tmp_path / "other"]
        for folder in folders:
            folder.mkdir()
        first, second = (
            start(server, folder, cases, concurrency, cache=tmp_path / "c") for folder in folders
        )
        if killed:
            deadline = time.monotonic() + 60
            while len(server.stats()["answered"]) < 10 and time.monotonic() < deadline:
                time.sleep(0.05)
            first.kill()
        assert second.wait() == 0
        assert first.wait() == (-signal.SIGKILL if killed else 0)
        sendings = server.stats()["sendings"]
    none_lost_none_made_up(result(folders[1])["grades"], cases)
    again = sum(sendings.values()) - cases - TRIALS
    if killed:
        assert again <= concurrency
    else:
        assert again == 0
        assert "when a process ended" not in (folders[1] / "log").read_text()


def kept(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as file:
        found = dict(file.execute("SELECT key, answer FROM answers"))
    file.close()
    return found


def cases_of(came: dict[str, str]) -> set[str]:
    """Give the cases whose answers were kept: each reply names its own."""
    found = [re.search(r"reasons of case (\d+)", answer) for answer in came.values()]
    return {one[1] for one in found if one}


def answers_or_none(path: Path) -> int:
    try:
        return answers(path)
    except sqlite3.Error:  # it is being made
        return 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand_with_a_kill_between(tmp_path: Path) -> None:
    concurrency, cases = 48, 10_000
    with serving(rate=0.3) as server:
        process = start(server, tmp_path, cases, concurrency)
        while not (tmp_path / "c").exists() or answers_or_none(tmp_path / "c") < 2000:
            assert process.poll() is None
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        came, before = kept(tmp_path / "c"), server.stats()["sendings"]
        assert start(server, tmp_path, cases, concurrency).wait() == 0
        stats = server.stats()
    found = result(tmp_path)
    none_lost_none_made_up(found["grades"], cases)
    for case in cases_of(came):
        assert stats["sendings"][case] == before[case]
    stats["answered"].pop("none")
    twice = [case for case, sent in stats["answered"].items() if sent > 1]
    assert len(twice) <= concurrency  # only what was on its way was answered twice
    assert len(stats["answered"]) == cases
    assert 0 < spent(tmp_path / "c")["repeated"] <= concurrency
    assert stats["most"] <= 2 * concurrency  # the killed one's last are still being seen off
    tenth = len(found["held"]) // 10
    assert found["held"][-1] - found["held"][tenth] < 20  # MiB, and 10 000 verdicts kept by us
