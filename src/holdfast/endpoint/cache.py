"""Every answer that came back, and every token it cost, in one SQLite file of one asker.

A transaction is whole or not there at all, so a kill at any moment loses no answer that was kept,
and several processes may use one file. What is asked is not kept, only its hash. SQLite's log is
written without waiting for the disk, and waited for when it is folded into the file: a kill costs
nothing, a power cut the last moments.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from holdfast.endpoint import alive
from holdfast.endpoint.chat import Answer
from holdfast.errors import ConfigError, StoreError

FORMAT = 2
"""Raised when the tables below change."""

WAIT = 60.0
"""Seconds that one process waits for another's write."""

TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, answer TEXT NOT NULL, asker TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flights (
    id INTEGER PRIMARY KEY AUTOINCREMENT, asker TEXT NOT NULL, key TEXT NOT NULL,
    sent INTEGER NOT NULL, answered INTEGER NOT NULL, until REAL NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
    id INTEGER PRIMARY KEY CHECK (id = 0), requests INTEGER NOT NULL, sent INTEGER NOT NULL,
    answered INTEGER NOT NULL, guessed INTEGER NOT NULL, repeated INTEGER NOT NULL);
INSERT OR IGNORE INTO spent VALUES (0, 0, 0, 0, 0, 0);
"""
LANDED = 1e300
"""A moment that never comes: the tokens of a request whose process is gone are spent by then."""


class Later(Enum):
    """Why a request is not sent now."""

    BUSY = "a process that lives asks the same, or it has been answered: look for the answer"
    FULL = "the budget may have room for it when what is on its way has come"
    SPENT = "the budget has no room for it, and nothing is on its way"


@dataclass(frozen=True, slots=True)
class Spent:
    """What all answers of a cache have cost so far, and what is on its way."""

    requests: int
    """Requests sent, those that failed included."""
    sent: int
    """Tokens of requests, reserved ones included."""
    answered: int
    """Tokens of answers, likewise."""
    guessed: int
    """Requests whose tokens were estimated: the server counted none, or its answer was lost."""
    repeated: int
    """Requests sent again because a process ended before their answers came."""


class Cache:
    """The file; open until `close`. One object serves the threads of one process.

    Raises:
        ConfigError: it belongs to another asker, or is no such file.
        StoreError: it cannot be written.
    """

    def __init__(self, path: Path, owner: Mapping[str, Any]) -> None:
        self.path = path
        self.asker = alive.name()
        """This object's name in the file; a request belongs to who sent it."""
        self.repeated = 0
        """Requests that this object sent again because a process ended before the answer came."""
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.touch(mode=0o600)
            self._file = sqlite3.connect(
                path, timeout=WAIT, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self._told(error) from None
        try:
            self._open(json.dumps(owner, sort_keys=True))
        except BaseException:
            self._file.close()
            raise

    def _open(self, owner: str) -> None:
        try:
            self._journal()
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute("BEGIN IMMEDIATE")
            for table in TABLES.split(";\n"):
                self._file.execute(table)
            self._file.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", [str(FORMAT)])
            self._file.execute("INSERT OR IGNORE INTO meta VALUES ('owner', ?)", [owner])
            found = {name: self.note(name) for name in ("format", "owner")}
            self._file.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise self._told(error) from None
        except sqlite3.DatabaseError:
            raise self._foreign("is no cache of answers") from None
        if found["format"] != str(FORMAT):
            raise self._foreign("was written by another version of Holdfast")
        if found["owner"] != owner:
            raise self._foreign(f"holds the answers of {_name(found['owner'])}")

    def _journal(self) -> None:
        """Have SQLite write ahead; processes that come at once may be told it is busy."""
        until = time.monotonic() + WAIT
        while True:
            try:
                self._file.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        with self._lock:
            self._file.close()

    def note(self, name: str) -> str | None:
        """Give what was noted under a name."""
        row = self._file.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchone()
        return None if row is None else str(row[0])

    def keep_note(self, name: str, value: str) -> None:
        """Note something under a name, in place of what was there."""
        with self._change():
            self._file.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [name, value])

    def get(self, key: str) -> tuple[Answer, bool] | None:
        """Give the answer to a request, if it came, and whether this object had asked for it."""
        with self._lock:
            row = self._file.execute(
                "SELECT answer, asker FROM answers WHERE key = ?", [key]
            ).fetchone()
        if row is None:
            return None
        found = json.loads(row[0])
        for name in ("others", "logprobs"):
            found[name] = None if found[name] is None else tuple(found[name])
        return replace(Answer(**found), cached=True), row[1] == self.asker

    def reserve(
        self,
        key: str,
        most: tuple[int, int],
        until: float,
        again: bool,
        fits: Callable[[int, int], bool],
    ) -> int | Later:
        """Set aside what a request may cost before it is sent; give its number, or why not now.

        Args:
            most: the most tokens it may cost, sent and answered.
            until: when it is certainly over, in seconds since 1970; if nobody has settled it by
                then, or its process is gone, all of it counts as spent.
            again: whether this process has sent it before.
            fits: says whether so many tokens, sent and answered, may be spent in all. No other
                process comes between its word and what is set aside.
        """
        with self._change():
            self._land()
            if self._one("SELECT 1 FROM flights WHERE key = ? AND until < ?", key, LANDED) or (
                self._one("SELECT 1 FROM answers WHERE key = ?", key)
            ):
                return Later.BUSY
            so_far = self._spent()
            if not fits(so_far.sent + most[0], so_far.answered + most[1]):
                flying = self._one("SELECT 1 FROM flights WHERE until < ?", LANDED)
                return Later.FULL if flying else Later.SPENT
            lost = self._file.execute("DELETE FROM flights WHERE key = ?", [key]).rowcount
            if lost and not again:
                self.repeated += 1
                self._file.execute("UPDATE spent SET repeated = repeated + 1")
            row = self._file.execute(
                "INSERT INTO flights (asker, key, sent, answered, until) VALUES (?, ?, ?, ?, ?)",
                [self.asker, key, *most, until],
            )
            return int(row.lastrowid or 0)

    def spent(self) -> Spent:
        """Give what has been spent and set aside, by every process that uses the file."""
        with self._lock:
            return self._spent()

    def _spent(self) -> Spent:
        row = self._file.execute(
            "SELECT requests, sent + (SELECT TOTAL(sent) FROM flights), "
            "answered + (SELECT TOTAL(answered) FROM flights), guessed, repeated FROM spent"
        ).fetchone()
        return Spent(*map(int, row))

    def settle(
        self, flight: int, cost: tuple[int, int], guessed: bool, key: str, answer: Answer | None
    ) -> None:
        """Put what a request did cost in place of what was set aside; keep its answer."""
        with self._change():
            gone = self._file.execute("DELETE FROM flights WHERE id = ? AND until < ?",
                                      [flight, LANDED]).rowcount  # fmt: skip
            if gone:
                self._file.execute(
                    "UPDATE spent SET requests = requests + 1, sent = sent + ?, "
                    "answered = answered + ?, guessed = guessed + ?",
                    [*cost, int(guessed)],
                )
            if answer is not None:
                self._file.execute(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)",
                    [key, json.dumps(asdict(answer)), self.asker],
                )

    def count(self) -> int:
        """Give how many answers are kept."""
        with self._lock:
            return int(self._file.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def _land(self) -> None:
        """Count as spent what processes set aside that are gone."""
        now = time.time()
        for (asker,) in self._file.execute(
            "SELECT DISTINCT asker FROM flights WHERE until < ? AND asker != ?",
            [LANDED, self.asker],
        ).fetchall():
            if not alive.runs(asker):
                self._file.execute(
                    "UPDATE flights SET until = 0 WHERE asker = ? AND until < ?", [asker, LANDED]
                )
        row = self._file.execute(
            "SELECT COUNT(*), TOTAL(sent), TOTAL(answered) FROM flights WHERE until < ?", [now]
        ).fetchone()
        if row[0]:
            self._file.execute(
                "UPDATE spent SET requests = requests + ?1, sent = sent + ?2, "
                "answered = answered + ?3, guessed = guessed + ?1",
                [int(value) for value in row],
            )
            self._file.execute(
                "UPDATE flights SET sent = 0, answered = 0, until = ? WHERE until < ?",
                [LANDED, now],
            )

    def _one(self, query: str, *values: object) -> bool:
        """Say whether there is a row."""
        return self._file.execute(query, values).fetchone() is not None

    @contextmanager
    def _change(self) -> Generator[None]:
        """Make one change, whole or not at all."""
        with self._lock:
            try:
                self._file.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._file.execute("ROLLBACK")
                    raise
                self._file.execute("COMMIT")
            except sqlite3.Error as error:
                raise self._told(error) from None

    def _told(self, error: Exception) -> StoreError:
        words = str(error).partition("\n")[0]
        todo = "check the folder and its rights, or name another file in `endpoint.cache`"
        return StoreError(str(self.path), f"cannot be written ({words})", todo)

    def _foreign(self, what: str) -> ConfigError:
        todo = "name another file in `endpoint.cache`, or leave it out"
        return ConfigError(str(self.path), what, todo)


def _name(owner: str | None) -> str:
    """Name whose answers a file holds, in a few words."""
    try:
        found = json.loads(owner or "")
        kind, name, version = found["kind"], found["name"], found["version"]
        model = found["fields"]["endpoint"]["model"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another asker"
    return f"another asker: {kind} '{name}', version {version}, of model '{model}', as it was set"
