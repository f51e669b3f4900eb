"""What a host's study tells: its own outcomes table, its jobs and defences, its scorers' risks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.engine.naming import method_text
from holdfast.engine.store import Store
from holdfast.study.hosting import Hosted
from holdfast.study.nodes import Track
from holdfast.study.plan import Plan

Row = dict[str, Any]


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
        found = _scored(track, store)
        if not found or not isinstance(track.method, Hosted):
            continue
        job = track.method.job
        planted = job.planted(job.sees(plan.attack_pool), track.seed)
        row: Row = {
            "lineup": track.lineup,
            "job": track.attacker,
            "defence": track.variant,
            "seed": track.seed,
        }
        for kind, wanted in (("planted", True), ("honest", False)):
            some = [one for one in found if (one["row"] in planted) is wanted]
            row[kind] = [one["risk"] for one in some if one["risk"] is not None]
            weights = [one["weight"] for one in some]
            row[f"removed_{kind}"] = 1 - sum(weights) / len(weights) if weights else None
        yield row


def _scored(track: Track, store: Store) -> list[Row]:
    """Give each row's risk and the weight of its cross-entropy, as the last budget's step kept."""
    _, point = track.points[-1]
    for step in point.asked.values():
        if store.has("generate", step.key):
            return list(store.manifest("generate", step.key)["result"].get("rows") or ())
    return []
