"""A worker process: reads tasks as JSON lines, runs them, and says how it went.

What the steps themselves print goes to stderr; the pipe carries the protocol alone. A worker ends
when its parent does, however that happens.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def die_with(parent: int) -> None:
    """End this process when `parent` ends: asked of the kernel on Linux, watched elsewhere."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serve the parent until it closes the pipe."""
    answers: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, _end)

    def tell(**message: object) -> None:
        try:
            answers.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:  # the parent has ended, and nobody is told anything
            os._exit(1)

    line = sys.stdin.buffer.readline()
    if not line:  # the parent was stopped while this process began
        return
    first = json.loads(line)
    die_with(first["parent"])
    serve(first, tell)


def _end(*_: object) -> None:
    """Leave what is being done, by way of whatever must be closed."""
    sys.exit(128 + signal.SIGTERM)


def serve(first: dict[str, Any], tell: Callable[..., None]) -> None:
    """Make the plan again from the study, then run one task a line."""
    from holdfast.engine.failures import described, note
    from holdfast.engine.runner import Runner
    from holdfast.engine.store import Store
    from holdfast.study.file import parse_study
    from holdfast.study.plan import Plan

    last = 0.0

    def progress(part: str, done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > 0.2:
            last = time.monotonic()
            tell(progress=[part, done, total])

    lines = logging.StreamHandler()
    lines.setFormatter(logging.Formatter("holdfast: %(message)s"))
    logging.getLogger("holdfast").addHandler(lines)
    logging.getLogger("holdfast").setLevel(logging.INFO)
    store = Store(Path(first["store"]))
    try:
        runner = Runner(
            Plan(
                parse_study(first["study"]),
                rehearsal=first["rehearsal"],
            ),
            store,
            threads=first["threads"],
            device=first["device"],
            keep_weights=first["keep_weights"],
            progress=progress,
        )
    except Exception as error:
        note(store, error)
        tell(failed=described(error))
        return
    tell(ready=os.getpid())
    with runner:
        for line in sys.stdin.buffer:
            name, *arguments = json.loads(line)["call"]
            try:
                getattr(runner, name)(*arguments)
            except Exception as error:
                note(store, error)
                tell(failed=described(error))
            else:
                tell(done=name)


if __name__ == "__main__":
    main()
