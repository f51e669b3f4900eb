"""Line-ups named in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.report import text

SHOWN = 4
"""Line-ups named one by one in a sentence; more are counted."""


def listed(names: Sequence[str]) -> str:
    """Join names, or count them where they are many; a name that reads as a word is quoted."""
    if len(names) > SHOWN:
        return f"{len(names)} line-ups"
    return text.listed([f"'{name}'" if name in ("none", "all", "both") else name for name in names])
