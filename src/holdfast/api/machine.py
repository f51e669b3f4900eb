"""The machine a run stands on: its threads, its versions."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from holdfast import __version__


def set_threads(threads: int) -> None:
    """Fix torch's threads and ask for deterministic algorithms."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA's products want to be told
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def environment(threads: int | None = None) -> dict[str, Any]:
    """Describe machine and versions: what must match for two runs to be called identical."""
    names = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    versions = {"holdfast": __version__}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": versions,
    }


def _processor() -> str:
    """Name the processor as the system knows it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
