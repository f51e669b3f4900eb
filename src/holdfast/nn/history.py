"""What a checkpoint says of its making: the notes beside its weights, step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.data.format import MARKER
from holdfast.disk import file_hash
from holdfast.errors import ModelError
from holdfast.nn.content import hashes
from holdfast.nn.files import weights_in

_BULKY = ("files", "history", "environment", "sample_prompt")
"""Of an earlier step, what is left out: what its own folder is better asked for."""
WEIGHTS = "weights"
"""In a note: the SHA-256 of each weights file that it was written beside, by name."""


def weights(folder: Path) -> dict[str, dict[str, str]]:
    """Give the part of a note that ties it to the weights files just written into a folder."""
    return {WEIGHTS: {path.name: file_hash(path) for path in weights_in(folder)}}


def history(folder: Path) -> list[dict[str, Any]]:
    """Give the steps in which a checkpoint was made, first to last; none where it says nothing.

    Each is what `holdfast.json` said when the step ended, so a mark that one of them left (that the
    weights were attacked, that they were dequantised) stays in sight however many steps follow.

    Raises:
        ModelError: the note is there and cannot be read, or was written beside other weights.
    """
    path = folder / MARKER
    if not path.is_file():
        return []
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        before = said.get("history") or []
        steps = [*before, said]
        if not all(_written(step) for step in steps):
            raise TypeError
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        raise ModelError(
            str(path), "is no note that holdfast wrote", "restore it, or delete it"
        ) from None
    _same(path, said.get(WEIGHTS))
    return [{k: v for k, v in step.items() if k not in _BULKY} for step in steps]


def _same(path: Path, known: Mapping[str, str] | None) -> None:
    """Refuse a note beside weights it was not written beside; one of an older version names none.

    Raises:
        ModelError: a weights file is missing, or holds other bytes.
    """
    if known is None:
        return
    found = hashes(path.parent)
    apart = sorted(name for name in {*known, *found} if known.get(name) != found.get(name))
    if apart:
        more = f" and {len(apart) - 1} more" if len(apart) > 1 else ""
        raise ModelError(
            str(path),
            f"was written beside other weights ({apart[0]}{more} is missing or changed)",
            "restore them, or delete this note: what it says is not of these weights",
        )


def _written(step: Mapping[str, Any]) -> bool:
    """Say whether a note's values are of the kinds that holdfast writes."""
    methods, held = step.get("defences") or [], step.get("held_out") or {}
    made = step.get(WEIGHTS, {})
    numbers = [step.get(name) for name in ("steps", "flops") if step.get(name) is not None]
    return (
        isinstance(methods, list)
        and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in methods)
        and isinstance(held, dict)
        and isinstance(made, dict)
        and all(isinstance(one, str) for one in made.values())
        and isinstance(step.get("attacked", False), bool)
        and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    )


def attacked(steps: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether one of the steps attacked the weights."""
    return any(bool(step.get("attacked")) for step in steps)


def doubts(steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Give what a checkpoint's own notes say against it, a line each."""
    if attacked(steps):
        yield "its weights were attacked on the way here"
    for step in steps:
        if fault := (step.get("held_out") or {}).get("fault"):
            yield f"{', '.join(one['name'] for one in step['defences'])} {fault}"


def spent(steps: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    """Give the optimiser steps and the FLOPs that hardening the weights took so far.

    Where a note does not count its steps, they are those of its methods' loops. Attacks count
    nothing.
    """
    hardened = [step for step in steps if step.get("defences")]
    taken = sum(int(step.get("steps") or _planned(step["defences"])) for step in hardened)
    return taken, sum(float(step.get("flops") or 0.0) for step in hardened)


def _planned(methods: Sequence[Mapping[str, Any]]) -> int:
    loops = [(method.get("fields") or {}).get("loop") or {} for method in methods]
    return sum(loop.get("steps", 0) for loop in loops)


def origin(steps: Sequence[Mapping[str, Any]]) -> str:
    """Say where the first step's weights are from, as the file they were read from tells; or ""."""
    source = steps[0].get("source") if steps else None
    if not isinstance(source, Mapping):
        return ""
    return ", ".join(str(source[key]) for key in ("file", "weights") if source.get(key))
