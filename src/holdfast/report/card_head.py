"""What stands in a hardened checkpoint's card of its making: metadata, the base, what was trained.

Read from its own provenance. No path is told: of a folder its last name alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from holdfast.nn.history import attacked
from holdfast.report.model_card import plain

_ON_THE_HUB = re.compile(r"([\w.-]+/[\w.-]+)@[0-9a-f]{40}")


def metadata(provenance: Mapping[str, Any]) -> str:
    """Give the card's front matter as the Hub reads it, from `---` to `---`.

    The base model where it is the Hub's own; tags: the methods, and `attacked` where the weights it
    started from were.
    """
    from huggingface_hub import ModelCardData

    tags = ["holdfast", *(str(method["name"]) for method in provenance["defences"])]
    if attacked(provenance.get("history") or []):
        tags.append("attacked")
    known = _ON_THE_HUB.fullmatch(str(provenance.get("model", "")))
    data = ModelCardData(
        base_model=known[1] if known else None, library_name="transformers", tags=tags
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def base(provenance: Mapping[str, Any]) -> str:
    """Name what it was made from, and what that was made from in turn, newest first."""
    before = provenance.get("history") or []
    names = [provenance.get("model"), *(step.get("model") for step in reversed(before))]
    told = [plain(_name(str(name))) for name in names if name]
    return ", made from ".join(told) or "unknown"


def _name(spec: str) -> str:
    """Give a model's name without the folders it lies in."""
    return spec if _ON_THE_HUB.fullmatch(spec) or ":" in spec else PurePath(spec).name


def loops(method: Mapping[str, Any]) -> Iterator[str]:
    """Say how each part of a method was trained, a line each: the model, and what comes before.

    An edit has no part.
    """
    name, fields = plain(str(method["name"])), method["fields"]
    most = "at most " if fields.get("ending") else ""
    for key in sorted(fields, key=lambda key: key == "loop"):  # the model's own comes last
        loop = fields[key]
        if not _is_loop(loop):
            continue
        who, how = f"{name}, {plain(key)}", "no weight of the model"
        if key == "loop":
            who, how = name, "a low-rank adapter, merged" if loop.get("lora") else "all weights"
        yield (
            f"- {who}: {most}{loop['steps']} steps of {loop['batch']} rows a role, learning rate "
            f"{loop['lr']:g}, {how}, precision {plain(loop['precision'])}"
        )


def _is_loop(value: object) -> bool:
    needed = {"steps", "batch", "lr", "precision"}
    return isinstance(value, Mapping) and needed <= value.keys()
