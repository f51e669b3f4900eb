"""A section for a model card: how one checkpoint was hardened, from its own provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.nn.history import attacked, origin
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
    """Give the Markdown section; it holds no prompt, no answer and no path.

    It claims no durability: that is what a study measures.
    """
    methods = provenance["defences"]
    tuned = bool(provenance.get("tuned"))
    said = ["## Tuning" if tuned else "## Hardening", ""]
    names = ", ".join(plain(str(method["name"])) for method in methods)
    done = "Tuned on a customer's rows under" if tuned else "Hardened with"
    said.append(f"{done} {names} (Holdfast {plain(str(provenance['version']))}).")
    before = provenance.get("history") or []
    if attacked(before):
        said += ["", "**The weights it started from had been attacked.** Do not publish it."]
    said += ["", f"- base weights: `{str(provenance['base'])[:16]}` (hash)"]
    if made := origin(before):
        said.append(f"- first read from: {plain(made)}")
    said.append(f"- prompt format: {plain(str(provenance['format']))}")
    rows = ", ".join(f"{count} {plain(role)}" for role, count in provenance["rows"].items())
    said.append(f"- rows: {rows or 'none'}; seed {provenance['seed']}")
    for method in methods:
        loop = method["fields"].get("loop")
        if loop:
            how = "a low-rank adapter, merged" if loop.get("lora") else "all weights"
            said.append(
                f"- {plain(str(method['name']))}: {loop['steps']} steps of {loop['batch']} rows a "
                f"role, learning rate {loop['lr']:g}, {how}, precision {plain(loop['precision'])}"
            )
    said.append(f"- cost: {provenance['flops']:.3g} floating-point operations")
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
