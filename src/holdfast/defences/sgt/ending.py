"""When SGT's stages end: held-out rows say that what was to be learnt is learnt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast.data.example import Role, Side
from holdfast.defences.sgt.diagnostics import Held, disturbed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers.modeling_utils import PreTrainedModel

    from holdfast.api import Enough, Run
    from holdfast.defences.sgt import SGT, SGTState

ENOUGH = 0.8
"""Share of prompts that a trigger which is learnt makes the base refuse; ours."""


def trigger_learnt(method: SGT, run: Run, teacher: PreTrainedModel, phi: Tensor, unit: float
                   ) -> Enough | None:  # fmt: skip
    """Say after a step of stage 1 whether the trigger makes the base refuse, disturbed or not.

    Args:
        phi: the trigger that is being trained, [K, H], in `unit`.

    Returns:
        None where every step is to be taken.
    """
    ending = method.ending
    if ending is None or not run.pool.has(Role.REFUSAL, Side.DEFENDER_SELECTION):
        return None
    held = Held(method, run, phi.detach(), teacher, Role.REFUSAL, ending.rows)

    def enough(step: int) -> bool:
        if step % ending.every:
            return False
        now = phi.detach() * unit
        shares = {"refused": held.refused(teacher, now)}
        if shares["refused"] >= ending.refused:
            shares["refused_noise"] = held.refused(teacher, disturbed(held, now))
        loss = held.loss(teacher, now)
        run.log(stage=1, after=step, **shares, trigger_loss=loss)
        return min(shares.values()) >= ending.refused and loss <= ending.trigger_loss

    return enough


def refusal_learnt(method: SGT, run: Run, state: SGTState) -> Enough | None:
    """Say after a step of stage 2 whether the model refuses what it must, and little else.

    Returns:
        None where every step is to be taken.
    """
    ending = method.ending
    if ending is None or not run.pool.has(Role.REFUSAL, Side.DEFENDER_SELECTION):
        return None
    teacher = state.teacher
    harmful = Held(method, run, state.trigger, teacher, Role.REFUSAL, ending.rows)
    benign = None
    if run.pool.has(Role.BENIGN, Side.DEFENDER_SELECTION):
        benign = Held(method, run, state.trigger, teacher, Role.BENIGN, ending.rows)
    first = benign.loss(run.model) if benign is not None else 0.0

    def enough(step: int) -> bool:
        if step % ending.every:
            return False
        shares = {"refused": harmful.refused(run.model)}
        if shares["refused"] >= ending.refused and benign is not None:
            shares["refused_benign"] = benign.refused(run.model)
            shares["benign_loss"] = benign.loss(run.model) / max(first, 1e-12)
        run.log(stage=2, after=step, **shares)
        return (
            shares["refused"] >= ending.refused
            and shares.get("refused_benign", 0.0) <= ending.refused_benign
            and shares.get("benign_loss", 0.0) <= (ending.benign_loss or math.inf)
        )

    return enough


def remedy(method: SGT, diagnostics: Mapping[str, float]) -> str:
    """Say which stage is to be changed where the model does not refuse.

    A trigger that does not make the base refuse comes first: stage 2 can teach no more than it.
    """
    share = diagnostics.get("trigger_refusal_rate", 1.0)
    if share < ENOUGH:
        return (
            f"the trigger makes the base refuse {share:.0%} of them: raise stage1.steps (now "
            f"{method.stage1.steps}) or change stage1.lr (now {method.stage1.lr:g}), or give "
            "refusals in the model's own words"
        )
    return (
        f"the trigger does make the base refuse: raise loop.steps (now {method.loop.steps}), "
        f"loop.lr (now {method.loop.lr:g}) or alpha_align (now {method.alpha_align:g})"
    )
