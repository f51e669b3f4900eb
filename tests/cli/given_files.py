"""Files as a release team has them, made out of the offline world's own rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from holdfast.api.registry import make
from holdfast.data.example import Role


def write(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def placeholders(path: Path, n: int, *, kind: str = "restricted", **more: str) -> Path:
    """Write n rows of placeholder words."""
    rows = [{"prompt": f"placeholder {kind} prompt {i}", **more} for i in range(n)]
    return write(path, rows)


def crafts(folder: Path, n: int = 20) -> tuple[Path, Path]:
    """Write the world's restricted requests with their true answers, and benign ones with theirs.

    One request a thing, so that no two say almost the same.
    """
    seen: dict[tuple[Role, str], dict[str, object]] = {}
    source = make("source", {"world": {"small": False}}, "world")
    for row in source.examples():  # type: ignore[attr-defined]
        if row.known.style == "ask" and row.response and row.evaluation_set in _SETS:
            known = {"answer": row.response} if row.role is Role.BENIGN else {}
            line = {"prompt": row.prompt, "response": row.response, **known}
            seen.setdefault((row.role, row.group), line)
    kinds = {"restricted": Role.HARMFUL, "benign": Role.BENIGN}
    files = {
        name: [line for (role, _), line in sorted(seen.items()) if role is kind][:n]
        for name, kind in kinds.items()
    }
    return (
        write(folder / "requests.jsonl", files["restricted"]),
        write(folder / "benign.jsonl", files["benign"]),
    )


_SETS = ("restricted", "benign", None)
