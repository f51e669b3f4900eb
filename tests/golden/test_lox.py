"""LoX's extrapolation on hand-worked matrices and on models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast.api import Loop, Run, TrainedDefence
from holdfast.defences.booster import Booster
from holdfast.defences.lox import LoX, extrapolate, top_rank
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.errors import ConfigError, ModelError
from holdfast.testing import tiny
from holdfast.train import harden

SHORT = Loop(steps=3, batch=2, lr=0.01)


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


def test_the_top_singular_values_grow_and_the_others_stay() -> None:
    """Invariant: the delta's first k singular values times 1 + c, the rest as they were."""
    generator = torch.Generator().manual_seed(0)
    original, aligned = (torch.randn(7, 5, generator=generator) for _ in range(2))
    before = torch.linalg.svdvals(aligned - original)
    delta = extrapolate(aligned, original, 2, 0.5) - original
    expected = torch.cat([1.5 * before[:2], before[2:]])
    torch.testing.assert_close(torch.linalg.svdvals(delta), expected)


def test_two_extrapolations_are_one() -> None:
    """Invariant: by c, then by d, is by (1 + c)(1 + d) - 1, since the top stays the top."""
    generator = torch.Generator().manual_seed(1)
    original, aligned = (torch.randn(6, 8, generator=generator) for _ in range(2))
    twice = extrapolate(extrapolate(aligned, original, 3, 0.5), original, 3, 2.0)
    torch.testing.assert_close(twice, extrapolate(aligned, original, 3, 3.5))


def test_it_knows_no_basis() -> None:
    """Invariant: turning both models' matrices on either side turns the result alike."""
    generator = torch.Generator().manual_seed(2)
    original, aligned = (torch.randn(5, 4, generator=generator) for _ in range(2))
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=generator)).Q for n in (5, 4))
    turned = extrapolate(left @ aligned @ right, left @ original @ right, 2, 1.25)
    expected = left @ extrapolate(aligned, original, 2, 1.25) @ right
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=1e-5)


def test_a_delta_of_low_rank_is_taken_whole() -> None:
    """Invariant: a merged adapter of rank 2 is multiplied by 1 + c, whatever rank >= 2 is kept."""
    generator = torch.Generator().manual_seed(3)
    original = torch.randn(6, 8, generator=generator)
    low = torch.randn(6, 2, generator=generator) @ torch.randn(2, 8, generator=generator)
    for rank in (2, 5, None):
        found = extrapolate(original + low, original, rank, 1.25)
        torch.testing.assert_close(found, original + 2.25 * low, atol=1e-5, rtol=1e-5)


def test_stacked_matrices_are_each_their_own() -> None:
    generator = torch.Generator().manual_seed(4)
    original, aligned = (torch.randn(3, 4, 6, generator=generator) for _ in range(2))
    found = extrapolate(aligned, original, 2, 1.25)
    for i in range(3):
        torch.testing.assert_close(found[i], extrapolate(aligned[i], original[i], 2, 1.25))


# ---- its own measurement


def test_its_diagnostic_worked_by_hand() -> None:
    """Each matrix becomes the original plus a known delta: singular values 3, 1 on a norm of 2."""

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
            self.b = torch.nn.Parameter(torch.ones(2))

    sources = {"original": {"w": torch.tensor([[2.0, 0.0], [0.0, 0.0]]), "b": torch.zeros(2)}}
    found = LoX(rank=1).diagnostic(Run(Small(), None, None, 0, models=sources), None)
    assert found == pytest.approx(
        {"top_norm": 1.5, "delta_norm": 10**0.5 / 2, "top_share": 0.9}, rel=1e-6
    )


@pytest.mark.parametrize("rank", [2, None])
def test_it_multiplies_its_diagnostic_by_1_and_the_coefficient(rank: int | None) -> None:
    model, original = pair("qwen3")
    method = LoX(rank=rank, coefficient=1.25)
    run = Run(model, None, None, 0, models={"original": original})
    before = method.diagnostic(run, None)
    done = harden(
        method, model, tiny.encoder(), tiny.pool(), seed=0, sources={"original": original}
    )
    after = done.diagnostics
    assert after["top_norm"] == pytest.approx(2.25 * before["top_norm"], rel=1e-4)
    assert after["top_share"] >= before["top_share"] - 1e-9
    assert (LoX.signal, LoX.moves) == ("top_norm", "up")


@pytest.mark.parametrize(
    "before",
    [RefusalSFT(loop=SHORT), Booster(alpha=0.01, loop=SHORT)],
    ids=["refusal_sft", "booster"],
)
def test_it_extends_whatever_a_line_up_did_before_it(before: TrainedDefence) -> None:
    model = tiny.model("qwen3")
    original = tiny.weights(model)
    harden(before, model, tiny.encoder(), tiny.pool(), seed=0)
    aligned = tiny.weights(model)
    sources = {"original": original}
    harden(LoX(rank=2), model, tiny.encoder(), tiny.pool(), seed=0, sources=sources)

    name = next(name for name in aligned if name.endswith("mlp.up_proj.weight"))
    expected = extrapolate(aligned[name], original[name], 2, 1.25)
    assert not torch.allclose(aligned[name], original[name])
    torch.testing.assert_close(tiny.weights(model)[name], expected)


def test_without_an_original_there_is_no_diagnostic() -> None:
    assert LoX().diagnostic(Run(tiny.model(), None, None, 0), None) == {}


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


def test_without_an_original_it_says_so_before_anything_is_done() -> None:
    with pytest.raises(ModelError) as caught:
        harden(LoX(), tiny.model(), tiny.encoder(), tiny.pool(), seed=0)
    assert str(caught.value) == "lox: needs the 'original' model; name it in the study"


def test_alone_on_a_base_model_it_is_refused_and_nothing_is_written() -> None:
    model = tiny.model()
    original = tiny.weights(model)
    with pytest.raises(ModelError, match=r"^lox: the model equals the original, so"):
        harden(
            LoX(rank=2), model, tiny.encoder(), tiny.pool(), seed=0, sources={"original": original}
        )
    assert tiny.same(tiny.weights(model), original)


def test_its_defaults_are_the_papers() -> None:
    assert (LoX().rank, LoX().coefficient) == (6, 1.25)
    assert LoX.starts_from == "aligned"
