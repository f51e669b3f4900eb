"""A step's identity: the SHA-256 of everything that can change its result."""

from __future__ import annotations

import hashlib
import json

VERSIONS = {
    "model": 1,
    "defend": 1,
    "point": 1,
    "generate": 1,
    "judge": 2,
    "measure": 1,
    "analyse": 1,
    "audit": 2,
}
"""Raised when a step's own code would give other numbers from the same inputs."""


def canonical(data: object) -> str:
    """Give plain data as JSON with one spelling: sorted names, no spaces, no NaN."""
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(data: object) -> str:
    """Give the SHA-256 of plain data, in hex."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def key(step: str, **parts: object) -> str:
    """Give the key of a step of kind `step` made from `parts`."""
    return digest({"step": step, "version": VERSIONS[step], **parts})
