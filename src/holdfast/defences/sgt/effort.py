"""What SGT's two stages cost, in forward and backward passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.api import CONSTANT, TRAINED, Effort, Rows, passed

if TYPE_CHECKING:
    from holdfast.defences.sgt import SGT


def of_stage_1(method: SGT, rows: Mapping[str, Rows]) -> Effort:
    """Count the clean and the noisy copies of each row, back through inputs alone."""
    if method.trigger.file is not None:
        return Effort()
    copies = method.cons.samples if method.cons.weight > 0 else 0
    row = replace(rows["refusal"], number=method.stage1.batch * (1 + copies))
    wide = replace(row, prompt=row.prompt + method.trigger.length)
    times = CONSTANT + method.stage1.split  # counted by a pass of its own where it is split
    return passed(wide, times) * method.stage1.steps


def of_stage_2(method: SGT, rows: Mapping[str, Rows]) -> Effort:
    """Count the teacher's passes, with the trigger and without it, and the student's."""
    harmful, benign = rows["refusal"], rows["benign"]

    def read(some: Rows, positions: str) -> float:
        short = positions in ("prompt", "last_prompt")
        return some.number * some.prompt if short else some.tokens

    pulled = read(harmful, method.align.positions)
    both = pulled + read(benign, method.repel.positions)
    taught = both + method.trigger.length * (harmful.number + benign.number)
    if method.align.relative == "shift":  # the teacher's plain states too
        taught += both
    elif method.align.guidance != 1.0:
        taught += pulled
    return Effort(TRAINED * pulled + taught) + passed(benign)
