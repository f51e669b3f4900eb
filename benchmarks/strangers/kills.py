"""A command is killed, stopped or ended at a random moment; then the same command again."""

from __future__ import annotations

import functools
import hashlib
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.strangers.ending import Ended, Started, Words, left_over, ran, start
from benchmarks.strangers.small import TABLES, Small, answers, lines

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
LONG = 300.0
"""Seconds that a command has at most on a machine that does much else."""
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
Tell = Callable[[Words, Ended], None]


@dataclass(frozen=True, slots=True)
class Command:
    """A command that makes something in a folder: its words, and what of it must be the same."""

    words: Callable[[Small, Path], list[str]]
    result: Callable[[Path], dict[str, str]]


def _run(workers: int) -> Command:
    return Command(
        lambda small, folder: small.run(folder / "store", workers),
        lambda folder: _hashes(folder / "store/toy", TABLES),
    )


def _defend(small: Small, folder: Path) -> list[str]:
    rows = _rows(folder, ("refusal", "benign"))
    return ["defend", "refusal_sft", *_on(small, folder), *rows, "--held-out", "0", "--set",
            "loop={steps: 40, batch: 4, lr: 0.01, checkpoint_every: 3, schedule: constant, "
            "warmup: 0}"]  # fmt: skip


def _attack(small: Small, folder: Path) -> list[str]:
    return ["attack", "harmful_sft", *_on(small, folder), *_rows(folder, ("harmful",)), "--set",
            "loop={lr: 0.01, batch: 2, checkpoint_every: 3}", "--set",
            "evaluate_at=[80]"]  # fmt: skip


def _generate(small: Small, folder: Path) -> list[str]:
    rows = [{"prompt": f"bex {word}", "uid": str(n)} for n, word in enumerate(["dark"] * 300)]
    (folder / "p.jsonl").write_bytes(lines(rows))
    return ["generate", "--model", str(small.model), "--format", "plain", "--prompts",
            str(folder / "p.jsonl"), "--set", "max_new_tokens=8", "--set", "temperature=1",
            "--out", str(folder / "out.jsonl")]  # fmt: skip


def _assess(small: Small, folder: Path) -> list[str]:
    path = folder / "r.jsonl"
    path.write_bytes(lines([{"prompt": f"how to bex dark {n}"} for n in "abcdefghijklmnopqrst"]))
    return ["assess", str(small.model), "--restricted", str(path), "--format", "plain", "--budget",
            "free", "--anyway", "--workers", "1", "--store", str(folder / "store"), "--out",
            str(folder / "out")]  # fmt: skip


def _on(small: Small, folder: Path) -> list[str]:
    return ["--model", str(small.model), "--format", "plain", "--out", str(folder / "out")]


def _rows(folder: Path, roles: tuple[str, ...]) -> list[str]:
    words = []
    for role in roles:
        path = folder / f"{role}.jsonl"
        many = [row | {"prompt": f"how to bex dark {n}", "response": "bex one two"}
                for n, row in enumerate(answers(24, ""))]  # fmt: skip
        path.write_bytes(lines(many))
        words += ["--data", f"{role}={path}"]
    return words


COMMANDS: dict[str, Command] = {
    "run": _run(1),
    "defend": Command(_defend, lambda folder: _hashes(folder / "out", ("model.safetensors",))),
    "generate": Command(_generate, lambda folder: _hashes(folder, ("out.jsonl",))),
    "attack": Command(_attack, lambda folder: _hashes(folder / "out", ("model.safetensors",))),
    "assess": Command(_assess, lambda folder: _hashes(folder / "out", TABLES)),
    "run with two workers": _run(2),
}
"""What is killed, by name."""


def _hashes(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    found = {name: folder / name for name in names}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
        if path.exists()
    }


@functools.cache
def clean(small: Small, name: str) -> tuple[dict[str, str], float]:
    """Give what a command makes that nobody stops, and the seconds it takes.

    Raises:
        RuntimeError: it fails, so that nothing could be told from a killed one.
    """
    if name == "run":
        return _hashes(small.store / small.study.stem, TABLES), small.seconds
    folder = Path(tempfile.mkdtemp(prefix="clean-"))
    command, began = COMMANDS[name], time.monotonic()
    ended = ran(command.words(small, folder), limit=LONG)
    if ended.code not in (0, 3):
        raise RuntimeError(f"{name} ended with {ended.code}: {ended.err}")
    return command.result(folder), time.monotonic() - began


def tried(small: Small, folder: Path, number: int, draw: random.Random, tell: Tell) -> str | None:
    """Stop a command one to three times and give it again; give what is wrong, or None.

    The last time it ends by itself: with the clean one's result, and nothing left over. What is
    stopped must leave no process, and say so in a line unless it was killed.
    """
    name = list(COMMANDS)[number % len(COMMANDS)]
    expected, seconds = clean(small, name)
    words = COMMANDS[name].words(small, folder)
    told = []
    for _ in range(draw.choice([1, 1, 2, 3])):
        sent = draw.choice(SIGNALS)
        moment = draw.uniform(0, seconds)
        told.append(f"{sent.name} after {moment:.2f} s")
        running = start(words)
        wrong = _stopped(running, sent, moment, lambda ended: tell(words, ended))
        if wrong:
            return f"{wrong} [{name}, {', '.join(told)}]"
    ended = ran(words, limit=LONG)
    tell(words, ended)
    case = f"[{name}, {', '.join(told)}]"
    if ended.code not in (0, 3) or "unforeseen" in ended.err:
        return f"lost: exit code {ended.code}, {ended.line[:150]} {case}"
    if COMMANDS[name].result(folder) != expected:
        return f"silent: another result {case}"
    if left := [*left_over(folder), *_work(folder)]:
        return f"left behind: {left[0]} {case}"
    return None


def _work(folder: Path) -> list[str]:
    """Name the folders of unfinished work."""
    return [str(path) for path in folder.rglob("*") if path.name in ("work", ".work")]


def _stopped(
    running: Started, sent: signal.Signals, moment: float, tell: Callable[[Ended], None]
) -> str | None:
    """Send a signal at a moment; give what is wrong with how the command ends, or None."""
    over = running.over(moment)
    if not over:
        running.send(sent)
    ended = running.ended(30.0)
    tell(ended)
    alive = _alive(running.pid)
    if over or ended.code in (0, 3):
        return None if ended.code in (0, 3) else f"lost: {ended.code}, {ended.line[:150]}"
    if alive:
        return "left behind: a process"
    if "Traceback" in ended.err or "unforeseen" in ended.err:
        return f"traceback: {(ended.err.strip().splitlines() or [''])[-1][:120]}"
    if sent == signal.SIGKILL:
        return None
    if ended.code == -signal.SIGKILL:
        return f"slow: does not end after {sent.name}"
    if ended.code not in STOPPED:
        return f"silent: exit code {ended.code} after {sent.name}: {ended.line[:100]}"
    if sent == signal.SIGINT and not ended.line:
        return "silent: no line after SIGINT"
    return None


def _alive(session: int) -> list[int]:
    """Give the processes of a session that are still there after five seconds; end them."""
    until = time.monotonic() + 5
    while (found := _of_session(session)) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return found


def _of_session(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found
