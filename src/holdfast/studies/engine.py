"""The local engine: gives ready steps to workers until nothing is left that can be done.

A worker is a process of its own (`holdfast.studies.worker`), spoken to in JSON lines; with one
worker the steps run in this process. A failed step stops what stands on it and nothing else.
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
import traceback
from dataclasses import dataclass, field
from typing import Any, Protocol

from holdfast import errors
from holdfast.errors import HoldfastError, StoreError
from holdfast.method import TrainedAttack
from holdfast.studies.plan import Plan, loop_steps
from holdfast.studies.store import Store

LAST_ERROR = "last-error.txt"


class Show(Protocol):
    """What a run tells while it goes on."""

    def start(self, total: int) -> None:
        """Say how many steps there are to do."""

    def step(self, worker: int, label: str, part: str, done: int, total: int) -> None:
        """Say how far a step has come."""

    def finish(self, worker: int, label: str, seconds: float, ok: bool) -> None:
        """Say that a step has ended."""


class Silent:
    """Tells nothing."""

    def start(self, total: int) -> None:
        """Do nothing."""

    def step(self, worker: int, label: str, part: str, done: int, total: int) -> None:
        """Do nothing."""

    def finish(self, worker: int, label: str, seconds: float, ok: bool) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Task:
    """A piece of work for one worker: a method of `Runner` with its arguments."""

    name: str
    call: tuple[Any, ...]
    label: str
    after: set[str] = field(default_factory=set)
    model: str = ""
    """The key of the model it loads: a worker that has it is asked first."""
    size: float = 0.0
    """Larger ones start first, so that no worker idles at the end."""
    rank: int = 0
    """0 hardens, 1 attacks and asks, 2 judges."""


@dataclass(slots=True)
class Done:
    """What a run did."""

    finished: int = 0
    failures: list[HoldfastError] = field(default_factory=list)
    held_up: int = 0
    """Steps that could not start because what they stand on failed."""
    seconds: float = 0.0


def tasks(plan: Plan, store: Store, *, only_judge: bool = False) -> list[Task]:
    """Give what is left to do, each with what must come before it."""
    found: dict[str, Task] = {}
    have = {kind: store.keys(kind) for kind in ("defend", "generate", "judge")}
    if not only_judge:
        for step in plan.defends.values():
            if step.key in have["defend"]:
                continue
            found[step.key] = Task(
                step.key,
                ("defend", step.key),
                step.label,
                {step.before.key} if step.before else set(),
                step.inputs[0],
                loop_steps(step.method),
            )
    for own, trajectory in plan.trajectories.items():
        asked = [step for point in trajectory.points.values() for step in point.asked.values()]
        missing = [step for step in asked if step.key not in have["generate"]]
        attack = f"attack/{own}"
        if missing and not only_judge:
            last = trajectory.released.last
            prompts = sum(len(plan.prompts[step.evaluation].rows) for step in missing)
            steps = 0
            if isinstance(trajectory.attack, TrainedAttack):
                steps = trajectory.attack.step_of(max(trajectory.points))
            found[attack] = Task(
                attack,
                ("attack", own),
                trajectory.label,
                {last.key} if last else set(),
                trajectory.released.key,
                steps + prompts / 10,
                1,
            )
        for number, judge in enumerate(plan.judges):
            unread = [
                step
                for step in asked
                if number in step.judges and step.judges[number] not in have["judge"]
            ]
            if not unread or (only_judge and missing):
                continue
            name = f"judge/{number}/{own}"
            label = f"judge {trajectory.label}: {judge.name()}"
            found[name] = Task(
                name, ("judge", number, own), label, {attack}, judge.name(), len(unread), 2
            )
    for task in found.values():
        task.after &= found.keys()
    return list(found.values())


def run(
    plan: Plan,
    store: Store,
    *,
    workers: int = 2,
    threads: int = 1,
    device: str = "cpu",
    keep_weights: bool = False,
    only_judge: bool = False,
    show: Show | None = None,
) -> Done:
    """Do everything that is left of a study; the caller holds the store.

    Args:
        workers: processes; with one, the steps run in this process.
        threads: arithmetic threads of each worker, recorded with every artefact.
        device: `cpu` or a CUDA device.
        keep_weights: keep every attacked checkpoint, so that new prompts need no replay.
        only_judge: judge the answers that are there, and make no others.
    """
    began = time.monotonic()
    show = show or Silent()
    todo = tasks(plan, store, only_judge=only_judge)
    done = Done()
    if todo:
        show.start(len(todo))
        options = {"threads": threads, "device": device, "keep_weights": keep_weights}
        if workers == 1:
            _here(plan, store, todo, options, show, done)
        else:
            _Workers(plan, store, todo, min(workers, len(todo)), options, show, done).run()
    finished = set()
    have = {kind: store.keys(kind) for kind in ("defend", "generate", "judge")}
    for names in have.values():
        finished |= names
    waiting = {task.name.removeprefix("attack/") for task in tasks(plan, store)}
    finished |= {t.key for own, t in plan.trajectories.items() if own not in waiting}
    store.tidy(finished)
    done.seconds = time.monotonic() - began
    return done


def _next(todo: list[Task], blocked: set[str], model: str) -> Task | None:
    """Choose the next task: hardening first, then what needs the model at hand, then the largest.

    Judging waits for the last, so that a judge is loaded once over all waiting answers.
    """
    ready = [task for task in todo if not (task.after & blocked)]
    if not ready:
        return None
    return min(ready, key=lambda task: (task.rank, task.model != model, -task.size))


def _drop(todo: list[Task], failed: str, *, everything: bool = False) -> int:
    """Take away all that stands on a failed task; give how many that were.

    `everything` is for a store that cannot be written: no other step could be kept either.
    """
    if everything:
        count = len(todo)
        todo.clear()
        return count
    gone, count = {failed}, 0
    while True:
        hit = [task for task in todo if task.after & gone]
        if not hit:
            return count
        for task in hit:
            todo.remove(task)
            gone.add(task.name)
            count += 1


def _here(
    plan: Plan, store: Store, todo: list[Task], options: dict[str, Any], show: Show, done: Done
) -> None:
    """Run every task in this process."""
    from holdfast.studies.steps import Runner, failed

    label = ""
    runner = Runner(
        plan,
        store,
        progress=lambda part, n, total: show.step(0, label, part, n, total),
        **options,
    )
    model = ""
    while todo:
        task = _next(todo, {other.name for other in todo}, model)
        if task is None:
            break
        todo.remove(task)
        label, model = task.label, task.model
        began = time.monotonic()
        try:
            getattr(runner, task.call[0])(*task.call[1:])
        except Exception as error:
            note(store, error)
            done.failures.append(failed(label, error))
            done.held_up += _drop(todo, task.name, everything=isinstance(error, StoreError))
            show.finish(0, label, time.monotonic() - began, ok=False)
        else:
            done.finished += 1
            show.finish(0, label, time.monotonic() - began, ok=True)


def note(store: Store, error: Exception) -> None:
    """Keep the traceback of an error nobody expected."""
    if not isinstance(error, HoldfastError):
        with contextlib.suppress(OSError):
            (store.folder / LAST_ERROR).write_text(
                "".join(traceback.format_exception(error)), encoding="utf-8"
            )


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


class _Workers:
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
            [sys.executable, "-P", "-m", "holdfast.studies.worker"],
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
            task = _next(self.todo, blocked, worker.model)
            if task is None:
                return
            self.todo.remove(task)
            worker.task, worker.model, worker.began = task, task.model, time.monotonic()
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
        self.done.held_up += _drop(self.todo, task.name, everything=isinstance(error, StoreError))
        self.show.finish(worker.number, task.label, time.monotonic() - worker.began, ok=False)

    def _dead(self, worker: _Worker) -> None:
        """Note what a dead worker was doing; another takes its place for the rest."""
        assert worker.process.stdout is not None
        self.selector.unregister(worker.process.stdout)
        self.workers.remove(worker)
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
