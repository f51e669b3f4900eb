"""What a host's study tells: its own outcomes table, its jobs and defences, its scorers' risks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.engine.naming import method_text
from holdfast.engine.store import Store
from holdfast.study.hosting import Hosted
from holdfast.study.nodes import Track
from holdfast.study.plan import Plan

if TYPE_CHECKING:
    from holdfast.data.example import Example
    from holdfast.data.tokens import Encoder

Row = dict[str, Any]
LOSSES = ("ce_risky", "kl_risky", "ce_clean", "kl_clean")
"""Means that a defence may log of each step: on rows above risk 0.5, and on the others."""
LAST = 20
"""Steps at the end of training over which such a mean is told; ours."""


def about(plan: Plan, store: Store) -> dict[str, Any]:
    """Say what customers handed in and what the host did; nothing where a study has no `tune`."""
    hosting = plan.hosting
    if hosting is None:
        return {}
    said = hosting.said
    loop = said.loop
    last = said.at_last
    how = f"rate {loop.lr:g}, batch {loop.batch}{f', LoRA {loop.lora.rank}' if loop.lora else ''}"
    told = {
        "plain": said.plain,
        "loop": how,
        "draws": last.draws,
        "temperature": last.temperature,
        "prefill": last.prefill,
        "jobs": {
            name: {"text": method_text(job), "clean": job.clean}
            for name, job in hosting.jobs.items()
        },
        "defences": {name: method_text(one) for name, one in hosting.defences.items()},
        "risks": list(_risks(plan, store)),
    }
    return {"provider": told}


def _risks(plan: Plan, store: Store) -> Iterator[Row]:
    """Give what each defence that scores rows made of them, by line-up, job and seed."""
    for track in plan.hosted:
        kept = _kept(track, store)
        row: Row = {
            "lineup": track.lineup,
            "job": track.attacker,
            "defence": track.variant,
            "seed": track.seed,
            "refused": bool(kept.get("refused")),
        }
        found = kept.get("rows")
        if not found or not isinstance(track.method, Hosted):
            continue
        job = track.method.job
        planted = job.planted(job.sees(plan.attack_pool), track.seed)
        for kind, wanted in (("planted", True), ("honest", False)):
            some = [(risk, weight) for name, risk, weight in found if (name in planted) is wanted]
            row[kind] = [risk for risk, _ in some]
            removed = [1 - weight for _, weight in some]
            row[f"removed_{kind}"] = sum(removed) / len(removed) if removed else None
        yield row | {"losses": kept.get("losses", {})}


def _kept(track: Track, store: Store) -> dict[str, Any]:
    """Give what the last budget's step kept of rows; nothing where no defence scored any."""
    _, point = track.points[-1]
    for step in point.asked.values():
        if store.has("generate", step.key):
            return store.manifest("generate", step.key)["result"]
    return {}


def scored(work: Path, rows: Sequence[Example], coder: Encoder) -> dict[str, Any]:
    """Give what a tuning's log says of a customer's rows.

    Returns:
        `rows`: [row_id, risk, weight of its cross-entropy] of each that was scored; `losses`: means
        over the last steps, on risky rows and on the others. Either only where a defence says so.
    """
    path = work / "log.jsonl"
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    said = next((line["rows"] for line in reversed(lines) if "rows" in line), {})
    from holdfast import nn

    names = {row.row_id: nn.row_name(coder.row(row)) for row in rows}
    known = [[row, *said[name]] for row, name in names.items() if name in said]
    told: dict[str, Any] = {"rows": known} if known else {}
    steps = [line for line in lines if "step" in line][-LAST:]
    means = {
        name: sum(values) / len(values)
        for name in LOSSES
        if (values := [line[f"{name}_mean"] for line in steps if f"{name}_mean" in line])
    }
    return told | ({"losses": means} if means else {})
