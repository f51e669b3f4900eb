"""Where an artefact comes from: the code, and the memory it took."""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import cache
from pathlib import Path


@cache
def git_commit() -> str | None:
    """Give the commit this package is checked out at, if it is."""
    folder = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def peak_mib() -> int:
    """Give the most memory this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 if sys.platform != "darwin" else 1024**2)
