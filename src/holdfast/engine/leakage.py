"""What the sides of a study share: looked for once, told in a line, refused above a share."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from holdfast.data.audit import ATTACK, CALIBRATION, DEFENCE, EVALUATION, Leakage
from holdfast.engine.store import Store
from holdfast.errors import DataError

if TYPE_CHECKING:
    from holdfast.study.plan import Plan

TOLD = {
    DEFENCE: "among the defences' rows",
    ATTACK: "among the attacks' rows",
    CALIBRATION: "among what choices are made on",
}
"""What each group is called in the line."""


def leakage(plan: Plan, store: Store, *, keep: bool = False) -> Leakage:
    """Audit a study, or read what an earlier run found.

    With `keep` what took long is put into the store.
    """
    if store.has("audit", plan.audited):
        return Leakage.of(store.manifest("audit", plan.audited)["result"])
    found = plan.leakage
    if keep and found.proposed:
        store.publish("audit", plan.audited, {"result": asdict(found)}, lambda _: None)
    return found


def said(found: Leakage) -> str:
    """Say in a line what the evaluator's prompts share with the other sides, and these with others.

    A second line says which rows were dropped for being on two sides, where any was.
    """
    asked = {pair.second: pair for pair in found.pairs if pair.first == EVALUATION}
    each = [f"{asked[name].exact} ({asked[name].near}) {where}" for name, where in TOLD.items()]
    line = (
        f"leakage: {found.prompts[EVALUATION]} prompts score; equal (nearly equal, Jaccard "
        f"{found.threshold:g}) ones: {', '.join(each)}"
    )
    others = [
        f"{pair.exact} of {pair.first} in {pair.second}"
        for pair in found.pairs
        if pair.first != EVALUATION and pair.exact
    ]
    if others:
        line += f"; equal elsewhere: {', '.join(others)}"
    if found.templates:
        line += f"; {found.templates} look like too many to compare with all"
    return f"{line}\n{found.dropped}" if found.dropped else line


def check(plan: Plan, found: Leakage) -> None:
    """Refuse a study of which too large a share of the evaluator's prompts leaked.

    Raises:
        DataError: it is above the study's `leakage.refuse_above`.
    """
    most = plan.study.leakage.refuse_above
    if most is None or found.share <= most:
        return
    first = next(
        pair for pair in found.pairs
        if pair.first == EVALUATION and pair.second in (DEFENCE, ATTACK) and pair.rows
    )  # fmt: skip
    ours, theirs = first.rows[0]
    raise DataError(
        "study.leakage.refuse_above",
        f"{found.leaked} of the evaluator's {found.prompts[EVALUATION]} prompts are in rows given "
        f"to train models on, equal or near (Jaccard {found.threshold:g}): "
        f"{found.share:.3g} is above {most:g}",
        f"take them out (such as row {theirs} of {first.second}, like row {ours}), or allow more",
    )
