"""Undoing the alignment delta on hand-worked matrices and on models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast import nn
from holdfast.api import Run
from holdfast.api.fields import decode
from holdfast.attacks.strip import Strip
from holdfast.attacks.undo_delta import ALL, UndoDelta, without_top
from holdfast.errors import ConfigError, ModelError
from holdfast.testing import tiny
from holdfast.train import attack


def edited(
    method: Any, start: dict[str, Tensor], original: dict[str, Tensor], point: float
) -> dict[str, Tensor]:
    run = Run(None, None, None, 0, models={"start": start, "original": original}, where="undo")
    return method.edit(run, point, None)


def test_rank_1_worked_by_hand() -> None:
    """The delta diag(3, 1) loses its 3: what is left of it is diag(0, 1)."""
    original = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    released = original + torch.diag(torch.tensor([3.0, 1.0]))
    expected = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    torch.testing.assert_close(without_top(released, original, 1), expected)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (3, 6, 9)])
def test_a_planted_delta_of_rank_2_is_undone_at_2_and_not_at_1(shape: tuple[int, ...]) -> None:
    """As a merged adapter is; stacked experts are each their own."""
    original = torch.randn(shape)
    low = torch.randn(*shape[:-1], 2) @ torch.randn(*shape[:-2], 2, shape[-1])
    released = original + low
    for rank in (2, 3, 40):
        found = without_top(released, original, rank)
        torch.testing.assert_close(found, original, atol=1e-5, rtol=0)
    left = without_top(released, original, 1) - original
    values = torch.linalg.svdvals(low)
    torch.testing.assert_close(torch.linalg.svdvals(left)[..., 0], values[..., 1])
    assert bool((values[..., 1] > 0.1).all())


def test_what_is_left_is_what_no_matrix_of_that_rank_could_take() -> None:
    released, original = torch.randn(7, 5), torch.randn(7, 5)
    values = torch.linalg.svdvals(released - original)
    for rank in range(1, 6):
        left = without_top(released, original, rank) - original
        torch.testing.assert_close(left.square().sum(), values[rank:].square().sum())


def test_it_is_the_defence_lox_turned_round() -> None:
    """Invariant: taking the top out twice takes twice as many directions out."""
    released, original = torch.randn(6, 8), torch.randn(6, 8)
    twice = without_top(without_top(released, original, 2), original, 1)
    torch.testing.assert_close(twice, without_top(released, original, 3), atol=1e-5, rtol=1e-5)


def test_a_vector_goes_back_whole_at_any_rank() -> None:
    released, original = torch.randn(5), torch.randn(5)
    assert torch.equal(without_top(released, original, 1), original)


def test_a_matrix_that_was_not_changed_stays_bit_for_bit() -> None:
    weight = torch.randn(6, 4)
    assert torch.equal(without_top(weight, weight.clone(), 2), weight)


def pair(family: str = "llama") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    original = tiny.weights(tiny.model(family))
    return {name: p + 0.1 * torch.randn_like(p) for name, p in original.items()}, original


def test_all_of_it_equals_the_whole_strip_to_the_bit() -> None:
    start, original = pair()
    undone = edited(UndoDelta(), start, original, ALL)
    stripped = edited(Strip(), start, original, 1.0)
    assert tiny.same(undone, stripped)
    assert tiny.same(undone, original)
    assert UndoDelta().returns_original(ALL)
    assert not UndoDelta().returns_original(16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vocabulary_rows_added_since_are_left_alone(dtype: torch.dtype) -> None:
    """Whatever precision the original's files are in."""
    start, original = pair()
    name = "model.embed_tokens.weight"
    original = {key: value.to(dtype) for key, value in original.items()}
    original[name] = original[name][:-3]
    for point in (1, 4, ALL):
        found = edited(UndoDelta(), start, original, point)[name]
        assert torch.equal(found[-3:], start[name][-3:]), point
        assert not torch.equal(found[:-3], start[name][:-3])
    for point in (0.5, 1.0):
        assert torch.equal(edited(Strip(), start, original, point)[name][-3:], start[name][-3:])


def test_the_spectrum_and_the_added_rows_are_logged(tmp_path: Path) -> None:
    """A delta of rank 2 shows as two values above noise."""
    model = tiny.model("llama")
    original = tiny.weights(model)
    with torch.no_grad():
        down = model.model.layers[1].mlp.down_proj.weight
        down.add_(torch.randn(16, 2) @ torch.randn(2, 32))
    original["lm_head.weight"] = original["lm_head.weight"][:-5]
    attack(
        UndoDelta(), model, tiny.encoder(), tiny.pool(), seed=0, points=[1.0],
        on_point=lambda *_: None, work=tmp_path, sources={"original": original},
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    values = {line["spectrum"]: line["values"] for line in lines if "spectrum" in line}
    assert set(values) == {name for name, p in model.named_parameters() if p.ndim == 2}
    found = values["model.layers.1.mlp.down_proj.weight"]
    assert found[1] > 1
    assert found[2] < 1e-4
    assert max(values["model.layers.0.mlp.down_proj.weight"]) == 0
    assert [(x["added_rows"], x["count"]) for x in lines if "added_rows" in x] == [
        ("lm_head.weight", 5)
    ]


def test_each_rank_starts_from_the_release_and_is_undone() -> None:
    model = tiny.model("llama")
    original = tiny.weights(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    start, found = tiny.weights(model), {}
    attack(
        UndoDelta(), model, tiny.encoder(), tiny.pool(), seed=0, points=list(UndoDelta().points()),
        on_point=lambda point, _info: found.update({point: tiny.weights(model)}),
        sources={"original": original},
    )  # fmt: skip
    assert sorted(found) == [1, 4, 16, ALL]
    for point, weights in found.items():
        assert tiny.same(weights, edited(UndoDelta(), start, original, point))
    assert tiny.same(found[ALL], original)
    assert tiny.same(tiny.weights(model), start)


# ---- its fields


def test_all_is_written_as_a_word() -> None:
    method = decode(UndoDelta, {"evaluate_at": [4, "all", 1]}, "undo_delta")
    assert method.points() == (1.0, 4.0, float(ALL))
    with pytest.raises(ConfigError, match=r"^undo_delta\.evaluate_at\.0: got 'most'; it should"):
        decode(UndoDelta, {"evaluate_at": ["most"]}, "undo_delta")
    with pytest.raises(ConfigError, match=r"^undo_delta\.evaluate_at\.0: got 0; it should be"):
        decode(UndoDelta, {"evaluate_at": [0]}, "undo_delta")


@pytest.mark.parametrize("method", [UndoDelta(), Strip()])
def test_without_an_original_it_says_so_and_changes_nothing(method: Any) -> None:
    model = tiny.model()
    start = tiny.weights(model)
    with pytest.raises(ModelError) as caught:
        attack(
            method, model, tiny.encoder(), tiny.pool(), seed=0, points=[1.0],
            on_point=lambda *_: pytest.fail("it was asked"),
        )  # fmt: skip
    assert str(caught.value) == (
        f"{method.name()}: needs the 'original' model; name it in the study"
    )
    assert tiny.same(tiny.weights(model), start)


def test_another_architectures_original_is_refused() -> None:
    start, _ = pair()
    with pytest.raises(ModelError) as caught:
        edited(UndoDelta(), start, tiny.weights(tiny.model(hidden_size=32)), 1)
    assert str(caught.value) == (
        "undo: the original has no 'model.embed_tokens.weight' of this shape; name its own base"
    )
    assert nn.added_rows(torch.zeros(4, 2), torch.zeros(6, 2)) == 2
    assert nn.added_rows(torch.zeros(4, 2), torch.zeros(6, 3)) == 0
