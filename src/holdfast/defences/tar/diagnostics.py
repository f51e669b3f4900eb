"""What TAR did: the model is attacked with half of the held-out pairs and measured on the rest."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from holdfast import nn
from holdfast.api import seed as seed_of
from holdfast.data.example import Example, Role, Side
from holdfast.defences.tar.moving import moving
from holdfast.errors import DataError

if TYPE_CHECKING:
    from holdfast.api import Run
    from holdfast.defences.tar import TAR

HELD_OUT = 32
"""Pairs measured on, at most."""
PART = 8
"""Rows of one pass."""


def measured(method: TAR, run: Run) -> dict[str, float]:
    """Attack the model with half of the held-out pairs and measure on the other half.

    K inner steps at the highest rate, harmful rows from the start. `harm_loss` and
    `harm_loss_after`, nats a token of the harmful answers before and after: TAR raises the
    second. `refusal_loss`, `refusal_loss_after` likewise, and `margin_after`, log p(refusal) -
    log p(harmful answer) of a pair. Empty where the defender's selection side has fewer than
    two prompts with both answers.
    """
    roles = (Role.REFUSAL, Role.HARMFUL)
    if not all(run.pool.has(role, Side.DEFENDER_SELECTION) for role in roles):
        return {}
    try:
        pairs = run.pool.paired(*roles, Side.DEFENDER_SELECTION, None, seed_of(run.seed, "draw"))
    except DataError:  # refusals and harmful answers of unlike prompts
        return {}
    if len(pairs) < 2:
        return {}
    rows = [run.encoder.batch([harmful]).rows[0] for _, harmful in pairs[::2]]
    judged = pairs[1::2][:HELD_OUT]
    draws = random.Random(seed_of(run.seed, "sampling", "attack", "diagnostic"))
    plain = method.with_(attack=method.attack.with_(switch=0.0))
    with torch.no_grad():
        before = _losses(run, judged)
    with (
        nn.all_trainable(run.model) as params,
        moving(params, method.attack.optimiser) as walk,
    ):
        for batch in plain.batches(rows, [], draws):
            method.attacked(run.model, params, walk, batch, max(method.attack.rates))
        walk.survived(method.name())
        with torch.no_grad():
            after = _losses(run, judged)
    found = {name: value for name, value in before.items() if name != "margin"}
    return found | {f"{name}_after": value for name, value in after.items()}


def _losses(run: Run, pairs: list[tuple[Example, Example]]) -> dict[str, float]:
    """Give both answers' nats a token and the mean difference of their log-probabilities."""
    sums = {"refusal_loss": [0.0, 0], "harm_loss": [0.0, 0]}
    for i in range(0, len(pairs), PART):
        for name, rows in zip(sums, zip(*pairs[i : i + PART], strict=True), strict=True):
            value, count = nn.nll(run.model, run.encoder.batch(rows))
            sums[name] = [sums[name][0] + float(value), sums[name][1] + count]
    found = {name: value / count for name, (value, count) in sums.items()}
    margin = (sums["harm_loss"][0] - sums["refusal_loss"][0]) / len(pairs)
    return found | {"margin": margin}
