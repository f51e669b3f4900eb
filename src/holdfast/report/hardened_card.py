"""A model card of one checkpoint: metadata and how it was hardened, from its own provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.nn.history import attacked, origin
from holdfast.report.card_head import base, loops, metadata
from holdfast.report.model_card import plain

_TOLD = {
    "refusal_rate": "harmful held-out prompts it refuses",
    "base_refusal_rate": "the same before hardening",
    "refusal_rate_benign": "benign held-out prompts it refuses in vain",
    "trigger_refusal_rate": "harmful prompts the base refuses with the trigger",
    "anchor_error": "relative distance to the guided states",
    "anchor_error_before": "the same before hardening",
    "drift_benign": "relative distance to the base on benign prompts",
}
"""Diagnostics a reader of a card can use, and what they mean."""


def hardened_card(provenance: Mapping[str, Any], diagnostics: Mapping[str, float]) -> str:
    """Give the front matter and the Markdown section; it holds no prompt, no answer and no path.

    It claims no durability: that is what a study measures.
    """
    methods = provenance["defences"]
    tuned = bool(provenance.get("tuned"))
    said = [metadata(provenance), "", "## Tuning" if tuned else "## Hardening", ""]
    names = ", ".join(plain(str(method["name"])) for method in methods)
    done = "Tuned on a customer's rows under" if tuned else "Hardened with"
    said.append(f"{done} {names} (Holdfast {plain(str(provenance['version']))}).")
    before = provenance.get("history") or []
    if attacked(before):
        said += ["", "**The weights it started from had been attacked.** Do not publish it."]
    said += ["", f"- base: {base(provenance)}; weights `{str(provenance['base'])[:16]}` (hash)"]
    if made := origin(before):
        said.append(f"- first read from: {plain(made)}")
    said.append(f"- prompt format: {plain(str(provenance['format']))}")
    rows = ", ".join(f"{count} {plain(role)}" for role, count in provenance["rows"].items())
    said.append(f"- rows: {rows or 'none'}; seed {provenance['seed']}")
    for method in methods:
        said += loops(method)
    said.append(f"- optimiser steps of the model itself: {provenance['steps']}")
    said.append(f"- cost: {provenance['flops']:.3g} floating-point operations")
    said += _held_out(provenance.get("held_out") or {})
    told = [
        f"- {words}: {diagnostics[name]:.3g}"
        for name, words in _TOLD.items()
        if name in diagnostics
    ]
    if told:
        said += ["", "Measured on the defender's held-out prompts:", "", *told]
    left = (
        "Not measured here: safety, and the gain on the customer's task. Nobody who holds the "
        "weights and trains without this defence is held by it."
        if tuned
        else "Not measured here: what it costs to undo this. Run a study (`holdfast run`) and add "
        "its section."
    )
    said += ["", left]
    return "\n".join(said) + "\n"


def _held_out(seen: Mapping[str, Any]) -> list[str]:
    """Say what held-out prompts showed before and after; nothing where none were asked."""
    lines = []
    for what in ("restricted", "benign"):
        one = seen.get(what) or {}
        if asked := one.get("asked"):
            was, now = one["refused_before"], one["refused_after"]
            lines.append(
                f"- {what}: {was} of {asked} ({was / asked:.0%}) refused before, {now} "
                f"({now / asked:.0%}) after"
            )
    loss = seen.get("benign_loss") or {}
    if loss.get("before") is not None and loss.get("after") is not None:
        lines.append(
            f"- loss on benign answers: {loss['before']:.3g} before, {loss['after']:.3g} after "
            "(nats a token)"
        )
    if not lines:
        return []
    fault = seen.get("fault")
    head = ["", f"**It {plain(str(fault))}.**"] if fault else []
    return [*head, "", f"Held-out prompts, refusals told by {plain(str(seen['told_by']))}:", "",
            *lines]  # fmt: skip
