"""Worker processes, spoken to in JSON lines, and the tasks between them.

A worker (`holdfast.engine.worker`) makes the plan again from the study and runs a task at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from holdfast import errors
from holdfast.engine.show import Done, Show
from holdfast.engine.store import Store
from holdfast.engine.tasks import JUDGING, Task, choose, drop
from holdfast.errors import HoldfastError, StoreError
from holdfast.study.plan import Plan

GRACE = 10.0
"""Seconds a worker has to close its judge; ours: a server that a judge started must be told."""


@dataclass(slots=True)
class _Worker:
    """A worker process, and the task it has."""

    number: int
    process: subprocess.Popen[bytes]
    buffer: bytes = b""
    task: Task | None = None
    began: float = 0.0
    model: str = ""
    ready: bool = False
    judges: bool = False
    """Whether it may have a judge open, which it must close before it ends."""


class Crew:
    """Worker processes and the tasks between them."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        todo: list[Task],
        count: int,
        options: dict[str, Any],
        show: Show,
        done: Done,
    ) -> None:
        self.plan, self.store, self.todo, self.options = plan, store, todo, options
        self.show, self.done = show, done
        self.selector = selectors.DefaultSelector()
        self.workers: list[_Worker] = []
        self.readers: dict[int, int] = {}
        """Of each judge that is loaded once: its tasks' rank, and the number of its worker."""
        self.deaths = 0
        self.count = count

    def run(self) -> None:
        """Work until nothing more can be done; no worker outlives this call."""
        try:
            for number in range(self.count):
                self._start(number)
            while self.workers and (self.todo or any(w.task for w in self.workers)):
                self._hand_out()
                if not any(w.task or not w.ready for w in self.workers):
                    break
                for selected, _ in self.selector.select(timeout=1.0):
                    self._hear(selected.data)
            self.done.held_up += len(self.todo)
        finally:
            self._end()

    def _end(self) -> None:
        """End every worker; those that may have a judge open have `GRACE` seconds to close it."""
        judging = [worker.process for worker in self.workers if worker.judges]
        try:
            for process in judging:
                process.terminate()
            until = time.monotonic() + GRACE
            for process in judging:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
        finally:  # a second Ctrl-C does not wait
            for worker in self.workers:
                worker.process.kill()
                _reap(worker.process)
            self.selector.close()

    def _start(self, number: int) -> None:
        threads = str(self.options["threads"])
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "holdfast.engine.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        worker = _Worker(number, process)
        self.workers.append(worker)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self.selector.register(process.stdout, selectors.EVENT_READ, worker)
        first = {
            "study": self.plan.study.model_dump(mode="json"),
            "rehearsal": self.plan.rehearsal,
            "store": str(self.store.folder),
            "parent": os.getpid(),
            **self.options,
        }
        self._say(worker, first)

    def _say(self, worker: _Worker, message: dict[str, Any]) -> None:
        assert worker.process.stdin is not None
        with contextlib.suppress(OSError):  # its death is heard of on the other pipe
            worker.process.stdin.write(json.dumps(message).encode() + b"\n")
            worker.process.stdin.flush()

    def _hand_out(self) -> None:
        blocked = {task.name for task in self.todo}
        blocked |= {worker.task.name for worker in self.workers if worker.task}
        for worker in self.workers:
            if not worker.ready or worker.task is not None:
                continue
            taken = {rank for rank, number in self.readers.items() if number != worker.number}
            task = choose(self.todo, blocked, worker.model, taken)
            if task is None:
                continue
            if task.alone:
                self.readers[task.rank] = worker.number
            self.todo.remove(task)
            worker.task, worker.model, worker.began = task, task.model, time.monotonic()
            worker.judges |= task.rank >= JUDGING
            self._say(worker, {"call": list(task.call)})

    def _hear(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        try:
            heard = worker.process.stdout.read()
        except BlockingIOError:
            return
        if heard is None:
            return
        if heard == b"":
            self._dead(worker)
            return
        *lines, worker.buffer = (worker.buffer + heard).split(b"\n")
        for line in lines:
            self._message(worker, json.loads(line))

    def _message(self, worker: _Worker, said: dict[str, Any]) -> None:
        if "ready" in said:
            worker.ready = True
            return
        task = worker.task
        if task is None:
            if "failed" in said:  # it could not even start
                self.done.failures.append(_error(said["failed"]))
            return
        seconds = time.monotonic() - worker.began
        if "progress" in said:
            self.show.step(worker.number, task.label, *said["progress"])
        elif "done" in said:
            worker.task = None
            self.done.finished += 1
            self.show.finish(worker.number, task.label, seconds, ok=True)
        elif "failed" in said:
            worker.task = None
            error = _error(said["failed"])
            self._failed(worker, task, type(error)(
                f"{task.label}: {error.where}" if said["failed"]["known"] else task.label,
                error.what, error.todo,
            ))  # fmt: skip

    def _failed(self, worker: _Worker, task: Task, error: HoldfastError) -> None:
        self.done.failures.append(error)
        self.done.held_up += drop(self.todo, task.name, everything=isinstance(error, StoreError))
        self.show.finish(worker.number, task.label, time.monotonic() - worker.began, ok=False)

    def _dead(self, worker: _Worker) -> None:
        """Note what a dead worker was doing; another takes its place for the rest."""
        assert worker.process.stdout is not None
        self.selector.unregister(worker.process.stdout)
        self.workers.remove(worker)
        self.readers = {rank: n for rank, n in self.readers.items() if n != worker.number}
        code = _reap(worker.process)
        self.deaths += 1
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        if worker.task is not None:
            error = HoldfastError(
                worker.task.label, f"its worker {how}", "run the same command again"
            )
            self._failed(worker, worker.task, error)
        elif not worker.ready and not self.done.failures:
            self.done.failures.append(
                HoldfastError(
                    f"worker {worker.number}", f"{how} before its first step", "see its words above"
                )
            )
        if self.todo and self.deaths <= 2 * self.count and worker.ready:
            self._start(worker.number)


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process to end and close what led to it; give its exit code."""
    code = process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):  # what it never read is lost with it
            if pipe is not None:
                pipe.close()
    return code


def _error(said: dict[str, Any]) -> HoldfastError:
    """Give the error a worker told of, in its own class."""
    kind = getattr(errors, said["type"], HoldfastError)
    return kind(said["where"], said["what"], said["todo"])
