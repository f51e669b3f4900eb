"""The quiz chooses the option with the highest log-probability a token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast.data.example import Example, Role, example
from holdfast.data.tokens import Encoder
from holdfast.evaluate import choose
from holdfast.testing import tiny

OPTIONS = [
    ["take one", "take one two three four", "no"],
    ["I cannot help with that", "stir it"],
    ["bread", "song", "gate", "the tall gate of Orun"],
    ["two", "three"],
    ["one", "one two", "one two three"],
]


def rows() -> list[Example]:
    return [
        example(f"quiz {'long ' * i}number {i}?", role=Role.BENIGN, meta={"options": some})
        for i, some in enumerate(OPTIONS)
    ]


def naive(model: Any, encoder: Encoder, row: Example) -> list[float]:
    """Score each option alone, unpadded, in float64: the mean over its tokens and the end."""
    scores = []
    for option in row.meta["options"]:
        coded = encoder.encode(row.prompt, option)
        with torch.no_grad():
            chance = model(torch.tensor([coded.ids])).logits[0].double().log_softmax(-1)
        values = [float(chance[i - 1, coded.ids[i]]) for i in range(coded.start, len(coded.ids))]
        scores.append(sum(values) / len(values))
    return scores


@pytest.mark.parametrize("batch", [1, 3, 4, 128])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_it_chooses_what_scoring_each_option_alone_chooses(family: str, batch: int) -> None:
    chosen = set()
    for seed in range(3):
        model, encoder = tiny.model(family, seed=seed, spread=0.3), tiny.encoder()
        expected = []
        for row in rows():
            scores = naive(model, encoder, row)
            ranked = sorted(scores)
            assert ranked[-1] - ranked[-2] > 1e-5  # no near tie that rounding could turn
            expected.append(scores.index(ranked[-1]))
        assert choose(model, encoder, rows(), batch=batch) == expected
        chosen |= set(expected)
    assert len(chosen) > 1


def test_a_tie_goes_to_the_first_option() -> None:
    row = example("which?", role=Role.BENIGN, meta={"options": ["one", "one", "one"]})
    assert choose(tiny.model(), tiny.encoder(), [row]) == [0]


def test_it_chooses_by_the_mean_and_not_by_the_sum() -> None:
    """Where the longest option is the likeliest a token, its sum is still the lowest."""
    model, encoder = tiny.model("llama"), tiny.encoder()
    long = " ".join(["take one two three"] * 3)
    row = example("say", role=Role.BENIGN, meta={"options": ["no", long]})
    with torch.no_grad():
        for token in encoder.tokenizer(" take one two three")["input_ids"]:
            model.lm_head.weight[token] *= 0.0
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(tiny.VOCABULARY))
        for token in encoder.tokenizer(" take one two three")["input_ids"]:
            model.lm_head.bias[token] = 4.0
    scores = naive(model, encoder, row)
    coded = [encoder.encode("say", option) for option in row.meta["options"]]
    lengths = [len(one.ids) - one.start for one in coded]
    assert scores[1] > scores[0]
    assert lengths[1] * scores[1] < lengths[0] * scores[0]
    assert choose(model, encoder, [row]) == [1]


@pytest.mark.parametrize("training", [False, True])
def test_the_models_mode_is_left_as_found(training: bool) -> None:
    model = tiny.model().train(training)
    choose(model, tiny.encoder(), rows())
    assert model.training is training
    assert all(p.grad is None for p in model.parameters())


def test_no_rows_give_no_choices() -> None:
    assert choose(tiny.model(), tiny.encoder(), []) == []
