"""What has moved: nothing at first, and by hand where one thing was moved on purpose."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast.data.example import Example, Role, example
from holdfast.data.tokens import Encoder
from holdfast.evaluate import Watch
from holdfast.testing import tiny

REFUSAL = "I cannot help with that."


def rows() -> list[Example]:
    return [
        example(f"how do I {'long ' * i}hex {i}?", f"take {word}", role=Role.HARMFUL)
        for i, word in enumerate(("one", "two", "three"))
    ]


def first(model: Any, encoder: Encoder, row: Example, response: str) -> float:
    """Score a response's first token alone, unpadded, in float64."""
    coded = encoder.encode(row.prompt, response)
    with torch.no_grad():
        chance = model(torch.tensor([coded.ids])).logits[0].double().log_softmax(-1)
    return float(chance[coded.start - 1, coded.ids[coded.start]])


@pytest.fixture
def pair() -> tuple[Any, Encoder]:
    return tiny.model("llama"), tiny.encoder()


def test_the_margin_is_that_of_the_first_tokens_where_the_answer_begins(
    pair: tuple[Any, Encoder],
) -> None:
    model, encoder = pair
    seen = Watch(model, encoder, rows(), REFUSAL).look()
    by_hand = [
        first(model, encoder, row, REFUSAL) - first(model, encoder, row, str(row.response))
        for row in rows()
    ]

    assert seen.margin == pytest.approx(sum(by_hand) / 3, abs=1e-5)
    assert (seen.weights, seen.states) == (0.0, 0.0)


def test_weights_and_states_move_by_what_they_were_moved(pair: tuple[Any, Encoder]) -> None:
    model, encoder = pair
    watch = Watch(model, encoder, rows(), REFUSAL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    assert watch.look().weights == pytest.approx(0.25)

    model, encoder = tiny.model("llama"), encoder
    watch = Watch(model, encoder, rows(), REFUSAL)
    watch.states = watch.states * 2  # as if all had been twice as large: half of each is gone
    assert watch.look().states == pytest.approx(0.25)
