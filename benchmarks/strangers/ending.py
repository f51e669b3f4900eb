"""Run one command in a process of its own, and say what is wrong with how it ends."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SLOW = 10.0
"""Processor-seconds beyond which a command that only refuses its input counts as hanging."""
LIMIT = 90.0
"""Seconds after which a command is killed, and counts as hanging."""
SECRET = "placeholder zebra prompt"
"""Stands for a restricted prompt: no line may quote it."""
CODES = {0, 1, 2, 3, 4, 5}
ESCAPED = 70
"""Exit code of a command out of which an exception came."""
Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, minus the signal that killed it, and what it said."""

    code: int
    out: str
    err: str
    seconds: float = 0.0
    """Of the processor."""

    @property
    def line(self) -> str:
        """The last line of an error that it showed."""
        lines = [one for one in self.err.splitlines() if one.startswith("holdfast: ")]
        return lines[-1] if lines else ""


@dataclass(slots=True)
class Started:
    """A command that runs: forked from this process, so that no library is imported anew."""

    pid: int
    at: Path
    began: float

    def send(self, number: int) -> None:
        """Send it a signal, and nobody else."""
        os.kill(self.pid, number)

    def over(self, seconds: float) -> bool:
        """Wait so long at most; say whether it has ended."""
        handle = os.pidfd_open(self.pid)
        try:
            return bool(select.select([handle], [], [], max(0.0, seconds))[0])
        finally:
            os.close(handle)

    def ended(self, limit: float = LIMIT) -> Ended:
        """Wait until it ends; kill it and all that it started after `limit` seconds."""
        if not self.over(limit):
            os.killpg(self.pid, signal.SIGKILL)
        _, status, used = os.wait4(self.pid, 0)
        said = [(self.at / name).read_bytes().decode("utf-8", "replace") for name in ("out", "err")]
        for name in ("out", "err"):
            (self.at / name).unlink()
        self.at.rmdir()
        seconds = used.ru_utime + used.ru_stime
        return Ended(os.waitstatus_to_exitcode(status), said[0], said[1], seconds)


def start(words: Words, first: Callable[[], None] | None = None) -> Started:
    """Start a command in a process and session of its own; `first` is called in it before."""
    at = Path(tempfile.mkdtemp(prefix="strangers-said-"))
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(words, at, first)
    return Started(pid, at, time.monotonic())


def ran(words: Words, first: Callable[[], None] | None = None, *, limit: float = LIMIT) -> Ended:
    """Run a command to its end."""
    return start(words, first).ended(limit)


def _child(words: Words, at: Path, first: Callable[[], None] | None) -> None:
    """Be the command; never return."""
    code = ESCAPED
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in enumerate(("out", "err"), start=1):
            os.dup2(os.open(at / name, os.O_WRONLY | os.O_CREAT, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = _writer(1), _writer(2)
        if first is not None:
            first()
        from holdfast.cli import run

        code = run(words)
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, KeyboardInterrupt) and not any(f.name == "run" for f in frames):
            print("holdfast: stopped before it began", file=sys.stderr)
            code = 128 + signal.SIGINT
        else:
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _writer(number: int) -> io.TextIOWrapper:
    """Give a text stream on a file that is open, as Python's own are made."""
    raw = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), "utf-8", errors="backslashreplace", line_buffering=True
    )


def left_over(folder: Path) -> list[str]:
    """Name what only an unfinished write has: it must not outlive a command."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if "tmp-" in path.name or path.suffix == ".part"
    )


def fault(ended: Ended, folder: Path) -> str | None:
    """Give what is wrong with how a command on a bad input ended, or None."""
    said = ended.err
    if ended.code == -signal.SIGKILL or ended.seconds > SLOW:
        return "slow"
    if ended.code == ESCAPED or "Traceback" in said:
        return f"traceback: {(said.strip().splitlines() or [''])[-1][:120]}"
    if "unforeseen: " in said:
        return f"traceback: {ended.line[:90]}"
    if ended.code not in CODES:
        return f"silent: exit code {ended.code}"
    if ended.code in (1, 2) and not ended.line:
        return "silent: no line"
    if ended.code in (1, 2) and len([one for one in said.splitlines() if ": " in one]) > 40:
        return "silent: a line among many"
    if SECRET in said + ended.out:
        return "quoted: a prompt"
    if any(ord(one) < 32 and one not in "\n\t\r" for one in said + ended.out) or "\u202e" in said:
        return "quoted: raw characters"
    if left := left_over(folder):
        return f"left behind: {left[0]}"
    if ended.code in (1, 2) and any(path.is_file() for path in folder.glob("out*")):
        return "left behind: a result"
    return None
