"""The distance to noise against distances written out, by hand and at its ends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from holdfast.defences.rep_noise.noise import noise_distance


def twin(x: Tensor, z: Tensor, kernels: int = 5) -> Tensor:
    """Write out all pairs: x, z [R, D]; the widths are constants."""
    both = torch.cat([x, z])
    apart = (both[:, None] - both[None]).square().sum(-1)
    n = len(both)
    width = apart.detach().sum() / (n * n - n) / 2 ** (kernels // 2)
    k = sum((-apart / (width * 2**i)).exp() for i in range(kernels))
    r = len(x)
    return k[:r, :r].mean() + k[r:, r:].mean() - k[:r, r:].mean() - k[r:, :r].mean()


def given(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Give three rows of 4, 1 and 3 tokens of width 5, in 4 slots."""
    torch.manual_seed(0)
    slot = torch.tensor([0, 1, 2, 3, 4, 9, 10, 11])
    states = 2 * torch.randn(8, 5, dtype=dtype) + 1
    return states.requires_grad_(True), torch.randn(8, 5, dtype=dtype), slot, 3, 4


def dense(tokens: Tensor, slot: Tensor, rows: int, width: int) -> Tensor:
    wide = tokens.new_zeros(rows * width, tokens.shape[1]).index_copy(0, slot, tokens)
    return wide.view(rows, -1)


@pytest.mark.parametrize("kernels", [1, 5])
def test_value_and_gradient_equal_all_pairs_written_out(kernels: int) -> None:
    x, z, slot, rows, width = given()
    ours = noise_distance(x, z, slot, rows, width, kernels=kernels)
    theirs = twin(dense(x, slot, rows, width), dense(z, slot, rows, width), kernels)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    (found,) = torch.autograd.grad(0.7 * ours, x)
    (expected,) = torch.autograd.grad(0.7 * theirs, x)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_worked_by_hand() -> None:
    """One number a row, 0 against 2: D = 4, widths 4 / 4 x (1, 2, 4, 8, 16)."""
    value = noise_distance(
        torch.tensor([[0.0]]), torch.tensor([[2.0]]), torch.tensor([0]), rows=1, width=1
    )
    expected = 10 - 2 * sum(math.exp(-4 / 2**i) for i in range(5))
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_equal_sets_are_at_0_and_pull_nowhere() -> None:
    x, _, slot, rows, width = given()
    value = noise_distance(x, x.detach().clone(), slot, rows, width)
    assert abs(value.item()) < 1e-14
    same = torch.ones(4, 3, requires_grad=True)
    value = noise_distance(same, torch.ones(4, 3), torch.arange(4), 4, 1)
    assert value.item() == 0.0
    assert torch.autograd.grad(value, same)[0].abs().max().item() == 0.0


def test_noise_is_nearer_to_noise_than_activations_are() -> None:
    torch.manual_seed(1)
    noise, other, far = torch.randn(64, 8), torch.randn(64, 8), 3 * torch.rand(64, 8)
    slot = torch.arange(64)
    near, away = (noise_distance(x, noise, slot, 16, 4).item() for x in (other, far))
    assert 0 <= near < 0.5 * away


def test_descent_brings_activations_to_the_size_of_noise() -> None:
    torch.manual_seed(2)
    x = (0.1 * torch.randn(16, 8)).requires_grad_(True)
    noise, slot = torch.randn(16, 8), torch.arange(16)
    first = noise_distance(x, noise, slot, 16, 1).item()
    for _ in range(200):
        (g,) = torch.autograd.grad(noise_distance(x, noise, slot, 16, 1), x)
        x.data.sub_(20 * g)
    assert noise_distance(x, noise, slot, 16, 1).item() < 0.2 * first
    assert 0.5 < x.detach().std().item() < 1.5


def test_half_precision_is_measured_in_fp32_and_huge_activations_stay_finite() -> None:
    x, z, slot, rows, width = given(torch.float32)
    half = x.detach().bfloat16().requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        value = noise_distance(half, z, slot, rows, width)
    assert value.dtype == torch.float32
    exact = noise_distance(half.detach().float(), z, slot, rows, width)
    assert value.item() == exact.item()
    assert torch.autograd.grad(value, half)[0].dtype == torch.bfloat16
    huge = (1e6 * x.detach()).requires_grad_(True)
    value = noise_distance(huge, z, slot, rows, width)
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, huge)[0]).all()


def test_no_tokens_are_at_distance_0() -> None:
    x = torch.zeros(0, 4, requires_grad=True)
    value = noise_distance(x, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 2, 1)
    assert value.item() == 0.0
    assert torch.autograd.grad(value, x)[0].shape == (0, 4)


def test_its_gradient_is_given_once() -> None:
    x, z, slot, rows, width = given()
    value = noise_distance(x, z, slot, rows, width)
    torch.autograd.grad(value, x, retain_graph=True)
    with pytest.raises(RuntimeError, match="already taken"):
        torch.autograd.grad(value, x)
