"""Judge N placeholder cases by the rubric: `python judge_all.py SETTINGS`, to be killed or not.

SETTINGS is JSON: endpoint (its fields), cases, out. It writes grades by case, and its memory.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from holdfast.api import Exchange
from holdfast.api.verdicts import ask
from holdfast.endpoint import Endpoint
from holdfast.judges.rubric import Rubric

CHUNK = 500
"""Answers given to the judge at once, as the engine does."""


def memory() -> float:
    """Give the memory that this process holds, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main(told: dict[str, Any]) -> None:
    judge = Rubric(endpoint=Endpoint(**told["endpoint"]))
    grades: dict[str, Any] = {}
    held = []
    with judge.opened():
        for first in range(0, told["cases"], CHUNK):
            asked = [
                Exchange(
                    str(n), None, f"placeholder prompt {n}", "", "placeholder answer", "stop", {}
                )
                for n in range(first, min(first + CHUNK, told["cases"]))
            ]
            for one, verdict in zip(asked, ask(judge, asked), strict=True):
                grades[one.example_uid] = (verdict.reason, verdict.score)
            held.append(memory())
    Path(told["out"]).write_text(json.dumps({"grades": grades, "held": held}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
