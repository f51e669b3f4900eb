"""The local engine: gives ready steps to workers until nothing is left that can be done.

With one worker the steps run in this process; with more, in processes of their own (`crew.py`). A
failed step stops what stands on it and nothing else.
"""

from __future__ import annotations

import time
from typing import Any

from holdfast.engine.crew import Crew
from holdfast.engine.failures import failed, note
from holdfast.engine.show import Done, Show, Silent
from holdfast.engine.store import Store
from holdfast.engine.tasks import JUDGING, Task, choose, drop, tasks
from holdfast.errors import StoreError
from holdfast.study.plan import Plan


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
        # A judge that loads nothing reads in no time.
        long = (task for task in todo if task.rank < JUDGING or task.alone)
        show.start(len(todo), {task.label: task.size for task in long})
        options = {"threads": threads, "device": device, "keep_weights": keep_weights}
        if workers == 1:
            _here(plan, store, todo, options, show, done)
        else:
            Crew(plan, store, todo, min(workers, len(todo)), options, show, done).run()
    finished = set()
    have = {kind: store.keys(kind) for kind in ("defend", "generate", "judge", "measure")}
    for names in have.values():
        finished |= names
    waiting = {task.name.removeprefix("attack/") for task in tasks(plan, store)}
    finished |= {t.key for own, t in plan.trajectories.items() if own not in waiting}
    store.tidy(finished)
    done.seconds = time.monotonic() - began
    return done


def _here(
    plan: Plan, store: Store, todo: list[Task], options: dict[str, Any], show: Show, done: Done
) -> None:
    """Run every task in this process."""
    from holdfast.engine.runner import Runner

    label = ""
    runner = Runner(
        plan,
        store,
        progress=lambda part, n, total: show.step(0, label, part, n, total),
        **options,
    )
    model = ""
    with runner:
        while todo:
            task = choose(todo, {other.name for other in todo}, model)
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
                done.held_up += drop(todo, task.name, everything=isinstance(error, StoreError))
                show.finish(0, label, time.monotonic() - began, ok=False)
            else:
                done.finished += 1
                show.finish(0, label, time.monotonic() - began, ok=True)
