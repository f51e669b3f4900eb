"""LoX's extrapolation on hand-worked matrices and on models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import tiny

from holdfast.defences.lox import LoX, extrapolate, top_rank
from holdfast.errors import ConfigError, ModelError
from holdfast.method import Run


def test_rank_1_worked_by_hand() -> None:
    """The delta diag(3, 1) keeps its 3 only: W + 2 * diag(3, 0)."""
    original = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    aligned = original + torch.diag(torch.tensor([3.0, 1.0]))
    found = extrapolate(aligned, original, 1, 2.0)
    torch.testing.assert_close(found, torch.tensor([[10.0, 2.0], [3.0, 5.0]]))


def test_rank_1_of_a_full_matrix_worked_by_hand() -> None:
    """Singular values of [[3, 0], [4, 5]]: 3 sqrt 5 and sqrt 5; the first's part is by 1.5."""
    found = top_rank(torch.tensor([[3.0, 0.0], [4.0, 5.0]]), 1)
    torch.testing.assert_close(found, torch.tensor([[1.5, 1.5], [4.5, 4.5]]))


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_the_kept_part_is_the_best_of_its_rank(shape: tuple[int, int]) -> None:
    delta = torch.randn(shape, dtype=torch.float64)
    values = torch.linalg.svdvals(delta)
    for rank in range(1, 5):
        kept = top_rank(delta, rank)
        assert torch.linalg.matrix_rank(kept) == rank
        error = (delta - kept).square().sum().item()
        assert error == pytest.approx(values[rank:].square().sum().item(), abs=1e-12)


def pair(family: str = "llama", scale: float = 0.05) -> tuple[Any, dict[str, torch.Tensor]]:
    """Give a model and the tensors it was moved from, every one of them moved."""
    model = tiny.model(family)
    original = tiny.weights(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(scale * torch.randn_like(p))
    return model, original


def edited(method: LoX, model: Any, original: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = tiny.weights(model)
    sources = {"start": start, "original": original}
    return method.edit(Run(model, None, None, 0, models=sources, where="lox"))


@pytest.mark.parametrize("rank", [None, 8])
def test_full_rank_is_plain_extrapolation(rank: int | None) -> None:
    """A matrix no side of which is longer than the rank keeps its whole delta."""
    model, original = pair()
    start = tiny.weights(model)
    found = edited(LoX(rank=rank, coefficient=1.25), model, original)
    for name, tensor in found.items():
        if rank is None or min(tensor.shape) == rank:
            expected = start[name] + 1.25 * (start[name] - original[name])
            torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=1e-5)


def test_matrices_are_edited_and_vectors_left() -> None:
    model, original = pair("qwen3")
    found = edited(LoX(rank=2), model, original)
    matrices = {name for name, p in model.named_parameters() if p.ndim == 2}
    assert set(found) == matrices
    assert "model.embed_tokens.weight" in matrices
    assert set(edited(LoX(rank=2, embeddings=False), model, original)) == {
        name for name in matrices if "embed" not in name and "lm_head" not in name
    }


def test_without_coefficient_nothing_changes() -> None:
    model, original = pair()
    start = tiny.weights(model)
    found = edited(LoX(coefficient=0.0), model, original)
    assert all(torch.equal(found[name], start[name]) for name in found)


def test_bf16_deltas_are_taken_in_fp32() -> None:
    """1 - 0.00787353515625 has more digits than bf16 holds (it would give 0.9921875)."""
    aligned, original = (torch.tensor([[x]]).bfloat16() for x in (1.0, 0.00787353515625))
    assert original.item() == 0.00787353515625
    assert extrapolate(aligned, original, None, 1.0).item() == 2.0 - 0.00787353515625


def test_a_model_that_equals_its_original_is_refused() -> None:
    model = tiny.model()
    with pytest.raises(ModelError) as caught:
        edited(LoX(), model, tiny.weights(model))
    assert str(caught.value) == (
        "lox: the model equals the original, so there is nothing to extrapolate; "
        "put an aligning defence such as refusal_sft before it"
    )


def test_a_rank_too_large_is_told() -> None:
    model, original = pair()
    with pytest.raises(ConfigError) as caught:
        edited(LoX(rank=9), model, original)
    assert str(caught.value) == (
        "lox.rank: 9 is larger than model.layers.0.self_attn.k_proj.weight (8, 16); use at most 8"
    )


def test_another_architectures_original_is_refused() -> None:
    model, _ = pair()
    other = tiny.weights(tiny.model(hidden_size=32))
    with pytest.raises(ModelError) as caught:
        edited(LoX(), model, other)
    assert str(caught.value) == (
        "lox: the original has no 'model.embed_tokens.weight' of this shape; name its own base"
    )


def test_its_defaults_are_the_papers() -> None:
    assert (LoX().rank, LoX().coefficient) == (6, 1.25)
    assert LoX.starts_from == "aligned"
