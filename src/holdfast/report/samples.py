"""Answers to show, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from holdfast.report import text
from holdfast.stats.records import Findings
from holdfast.stats.rows import Outcomes
from holdfast.stats.trajectories import EVALUATOR


def samples(found: Findings, table: Outcomes, show_text: bool) -> Iterable[dict[str, str]]:
    """Pick two restricted answers per line-up: as released, and at the largest budget tried."""
    attacks = [a for t in found.threats for a in (*t.attacks, *t.free_attacks)]
    show = text.harmless if show_text else text.masked
    for name in found.lineups:
        attack = next((a for a in attacks if name in a.points), None)
        if attack is None:
            continue
        seed, variant = next(iter(attack.chosen[name].items()))
        budgets = [p.budget for p in attack.points[name]]
        for budget in dict.fromkeys((budgets[0], budgets[-1])):
            here = np.flatnonzero(
                table.where(
                    lineup=name, attack=attack.name, variant=variant, seed=seed, budget=budget,
                    set=found.meta.headline, side=EVALUATOR, judge=found.meta.judges[0],
                )
            )  # fmt: skip
            if not len(here):
                continue
            row = min(here, key=lambda i: table.words["uid"][table.codes["uid"][i]])
            outcome = table.words["outcome"][table.codes["outcome"][row]]
            if table.cut[row]:
                outcome = f"{outcome}, cut at the token limit"
            reason = table.words["reason"][table.codes["reason"][row]]
            place = (
                "as released" if budget == 0
                else f"after {text.spent(budget, attack.unit)} of {attack.name} {variant}"
            )  # fmt: skip
            yield {
                "lineup": name,
                "place": f"{place.strip()}, seed {seed}",
                "verdict": outcome.replace("_", " ") or f"not scored ({reason})",
                "prompt": show(table.prompt[row]),
                "response": show(table.response[row]),
            }


def provenance(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """Flatten nested provenance to labels and words, in the order given."""
    for name, value in values.items():
        label = f"{above} {name}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from provenance(value, label)
        elif isinstance(value, list | tuple):
            yield label, ", ".join(map(str, value))
        else:
            yield label, "unknown" if value is None else str(value)
