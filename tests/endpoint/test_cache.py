"""The cache: whole lines, one owner, several processes, and what everything cost."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.endpoint.serving import OWNER

from holdfast.endpoint import Answer, alive
from holdfast.endpoint.cache import Cache, Later
from holdfast.errors import ConfigError

ANSWER = Answer("placeholder", "stop", 3, 2, others=("x",), logprobs=(-0.5, -1.0))


def always(_sent: int, _answered: int) -> bool:
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "c.sqlite"


def test_an_answer_comes_back_as_it_was(path: Path) -> None:
    cache = Cache(path, OWNER)
    flight = cache.reserve("k", (10, 10), time.time() + 60, False, always)
    assert isinstance(flight, int)
    cache.settle(flight, (3, 2), False, "k", ANSWER)
    assert cache.get("k") == (replace(ANSWER, cached=True), True)
    cache.close()
    again = Cache(path, OWNER)
    found, own = again.get("k") or pytest.fail("it is lost")
    assert found.cached
    assert not own
    assert (found.text, found.others, found.logprobs) == ("placeholder", ("x",), (-0.5, -1.0))
    assert again.get("other") is None
    assert (again.count(), again.spent().requests, again.spent().sent) == (1, 1, 3)
    again.close()


def test_a_cache_of_another_judge_is_one_line(path: Path) -> None:
    Cache(path, OWNER).close()
    other = {**OWNER, "version": 2}
    with pytest.raises(ConfigError) as caught:
        Cache(path, other)
    assert str(caught.value) == (
        f"{path}: holds the answers of another asker; name another file in `endpoint.cache`, or "
        "leave it out"
    )


def test_it_names_the_judge_whose_it_is(path: Path) -> None:
    Cache(path, {**OWNER, "fields": {"endpoint": {"model": "m"}}}).close()
    with pytest.raises(ConfigError) as caught:
        Cache(path, OWNER)
    assert str(caught.value) == (
        f"{path}: holds the answers of another asker: judge 'tester', version 1, of model 'm', as "
        "it was set; name another file in `endpoint.cache`, or leave it out"
    )


def test_another_kind_of_file_is_one_line(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("placeholder notes\n" * 100)
    with pytest.raises(ConfigError) as caught:
        Cache(path, OWNER)
    assert str(caught.value) == (
        f"{path}: is no cache of answers; name another file in `endpoint.cache`, or leave it out"
    )
    assert path.read_text().startswith("placeholder notes")


def test_another_format_is_one_line(path: Path) -> None:
    Cache(path, OWNER).close()
    with sqlite3.connect(path) as file:
        file.execute("UPDATE meta SET value = '0' WHERE name = 'format'")
    file.close()
    with pytest.raises(ConfigError) as caught:
        Cache(path, OWNER)
    assert str(caught.value) == (
        f"{path}: was written by another version of Holdfast; name another file in "
        "`endpoint.cache`, or leave it out"
    )


def test_what_is_set_aside_counts_until_it_is_settled(path: Path) -> None:
    cache = Cache(path, OWNER)

    def fits(sent: int, answered: int) -> bool:
        return sent + answered <= 30

    first = cache.reserve("a", (10, 10), time.time() + 60, False, fits)
    assert isinstance(first, int)
    assert cache.reserve("b", (10, 10), time.time() + 60, False, fits) is Later.FULL
    cache.settle(first, (4, 1), False, "a", ANSWER)
    assert cache.reserve("a", (10, 10), time.time() + 60, False, fits) is Later.BUSY
    second = cache.reserve("b", (10, 10), time.time() + 60, False, fits)
    assert isinstance(second, int)
    cache.settle(second, (15, 5), False, "b", ANSWER)
    assert cache.reserve("c", (10, 10), time.time() + 60, False, fits) is Later.SPENT
    cache.close()


def test_what_a_dead_process_had_on_its_way_is_spent_and_counted_once(path: Path) -> None:
    dead = Cache(path, OWNER)
    dead.reserve("a", (10, 5), time.time() - 1, False, always)
    dead.close()
    cache = Cache(path, OWNER)
    other = cache.reserve("b", (1, 1), time.time() + 60, False, always)
    assert isinstance(other, int)
    spent = cache.spent()
    assert (spent.requests, spent.sent, spent.answered, spent.guessed) == (1, 11, 6, 1)
    assert spent.repeated == 0
    again = cache.reserve("a", (10, 5), time.time() + 60, False, always)
    assert isinstance(again, int)
    cache.settle(again, (0, 0), False, "a", None)
    cache.reserve("a", (10, 5), time.time() + 60, True, always)
    assert (cache.repeated, cache.spent().repeated) == (1, 1)
    cache.close()


FLY = """
import sys, time
from pathlib import Path
from holdfast.endpoint.cache import Cache
from tests.endpoint.serving import OWNER
cache = Cache(Path(sys.argv[1]), OWNER)
cache.reserve("a", (10, 5), time.time() + 600, False, lambda *_: True)
print("flying", flush=True)
sys.stdin.read()
"""


def test_a_process_is_waited_for_while_it_lives_and_no_longer(path: Path, root: Path) -> None:
    cache = Cache(path, OWNER)
    neighbour = subprocess.Popen(
        [sys.executable, "-c", FLY, str(path)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert neighbour.stdout is not None
    assert neighbour.stdout.readline() == b"flying\n"
    assert cache.reserve("a", (10, 5), time.time() + 60, False, always) is Later.BUSY
    assert cache.reserve("b", (10, 5), time.time() + 60, False, lambda *_: False) is Later.FULL
    neighbour.kill()
    neighbour.wait()
    assert cache.reserve("b", (10, 5), time.time() + 60, False, lambda *_: False) is Later.SPENT
    assert isinstance(cache.reserve("a", (10, 5), time.time() + 60, False, always), int)
    spent = cache.spent()
    assert (spent.requests, spent.sent, spent.guessed, spent.repeated) == (1, 20, 1, 1)
    neighbour.communicate()
    cache.close()


def test_a_process_number_that_was_given_again_is_another_process() -> None:
    place, number, started, own = alive.name().split("/")
    assert alive.runs("/".join([place, number, started, own]))
    assert not alive.runs("/".join([place, number, "1", own]))
    assert not alive.runs("/".join([place, str(2**22 + 1), started, own]))
    assert alive.runs("/".join(["another machine", "1", "1", own]))


MANY = """
import sys, time
from pathlib import Path
from holdfast.endpoint import Answer
from holdfast.endpoint.cache import Cache
from tests.endpoint.serving import OWNER
for part in range(5):
    cache = Cache(Path(sys.argv[1]), OWNER)
    for i in range(part * 20, part * 20 + 20):
        for key in (f"{sys.argv[2]}/{i}", f"same/{i}"):
            flight = cache.reserve(key, (2, 2), time.time() + 60, False, lambda *_: True)
            if isinstance(flight, int):
                cache.settle(flight, (1, 1), False, key, Answer(key))
    cache.close()
"""


def test_processes_side_by_side_lose_nothing(path: Path, root: Path) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", MANY, str(path), str(i)], cwd=root)
        for i in range(4)
    ]
    assert [process.wait() for process in running] == [0] * 4
    cache = Cache(path, OWNER)
    assert cache.count() == 500
    spent = cache.spent()
    assert (spent.requests, spent.sent, spent.answered) == (500, 500, 500)  # each key once
    found, _ = cache.get("2/77") or pytest.fail("it is lost")
    assert found.text == "2/77"
    cache.close()


def test_only_its_user_may_read_it(path: Path) -> None:
    Cache(path, OWNER).close()
    assert path.stat().st_mode & 0o077 == 0
