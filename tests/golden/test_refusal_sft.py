"""Refusal fine-tuning is two cross-entropies, each a mean over its own response tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast.data.example import Role
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.nn.vectors import total
from holdfast.testing import tiny


def mean(model: Any, tokens: Any) -> float:
    """Give the mean of -log p over all response tokens, rows alone, in float64."""
    losses = []
    for row in tokens.rows:
        chance = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        losses += [-float(chance[i - 1, row.ids[i]]) for i in range(row.start, len(row.ids))]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 3.0])
def test_the_benign_term_has_its_weight(weight: float) -> None:
    model, encoder, rows = tiny.model(), tiny.encoder(), tiny.rows(n=4)
    batch = {role: encoder.batch(rows[role]) for role in (Role.REFUSAL, Role.BENIGN)}
    with torch.no_grad():
        found = total(RefusalSFT(benign_weight=weight).loss(model, batch, None))
        refusal, benign = (mean(model, batch[role]) for role in (Role.REFUSAL, Role.BENIGN))
    assert found == pytest.approx(refusal + weight * benign, rel=1e-6)
