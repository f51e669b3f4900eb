"""Run a command and die inside a named function: `killer.py MODULE:NAME CALLS WHEN ARGUMENTS...`.

At call number CALLS this process kills itself with SIGKILL, before or after the function's work.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys


def arm(target: str, calls: int, when: str) -> None:
    module, _, path = target.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function = getattr(owner, name)
    count = 0

    @functools.wraps(function)
    def wrapped(*arguments, **named):
        nonlocal count
        count += 1
        if count == calls and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if count == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    from holdfast.cli import main

    main(sys.argv[4:])
