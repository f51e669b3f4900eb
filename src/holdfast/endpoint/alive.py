"""Which process asks, in a word that others can hold against what runs: is it still there?"""

from __future__ import annotations

import os
import platform
import uuid
from pathlib import Path


def name() -> str:
    """Give a word for an asker of this process: its place, number and start, and one of its own."""
    return "/".join([_place(), str(os.getpid()), _started(os.getpid()), uuid.uuid4().hex])


def runs(asker: str) -> bool:
    """Say whether the process of an asker runs; of one that cannot be seen from here, True."""
    place, number, started, _ = asker.split("/")
    if place != _place():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's, and there
        pass
    return _started(int(number)) == started


def _place() -> str:
    """Give where process numbers mean the same: the machine, and the container if it is one."""
    try:
        inside = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        inside = ""
    return f"{platform.node()} {inside}".replace("/", " ")


def _started(number: int) -> str:
    """Give when a process started, as the system counts; numbers are given again. "" if unknown."""
    try:
        words = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = words.rpartition(")")[2].split()
    return "" if state == "Z" else rest[18]
