"""Likelihood and KL a token on a page, against each row alone in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import evaluate
from holdfast.data.example import Role, example
from holdfast.data.tokens import Encoder
from holdfast.errors import DataError
from holdfast.testing import tiny

ROWS = [
    example(f"{'long ' * (i % 4)}prompt {i}?", "stir it " * (1 + i % 3), role=Role.BENIGN)
    for i in range(11)
]


def chances(model: Any, encoder: Encoder, row: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Give log-probabilities [N, V] where the response is told, in float64, and its ids [N]."""
    coded = encoder.row(row)
    with torch.no_grad():
        whole = model(torch.tensor([coded.ids])).logits[0].double().log_softmax(-1)
    return whole[coded.start - 1 : -1], torch.tensor(coded.ids[coded.start :])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_both_are_means_over_tokens_not_over_rows(family: str) -> None:
    shipped, model = (tiny.model(family, seed=seed, spread=0.3) for seed in (0, 1))
    encoder = tiny.encoder()
    nll, kl = [], []
    for row in ROWS:
        p, ids = chances(shipped, encoder, row)
        q, _ = chances(model, encoder, row)
        nll.append(-q.gather(1, ids[:, None])[:, 0])
        kl.append((p.exp() * (p - q)).sum(1))
    model.train()
    assert evaluate.page_nll(model, encoder, ROWS) == pytest.approx(
        float(torch.cat(nll).mean()), rel=1e-4
    )
    found = evaluate.page_kl(shipped, model, encoder, ROWS)
    assert found == pytest.approx(float(torch.cat(kl).mean()), rel=1e-3)
    assert found > 0.01
    assert abs(evaluate.page_kl(model, model, encoder, ROWS)) < 1e-6
    assert model.training


def test_a_page_without_answers_is_refused() -> None:
    rows = [example("what?", role=Role.BENIGN)]
    with pytest.raises(DataError) as caught:
        evaluate.page_nll(tiny.model("llama"), tiny.encoder(), rows)
    assert str(caught.value) == "page: no row has a response; give rows that are answered"
