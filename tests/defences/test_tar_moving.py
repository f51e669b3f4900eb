"""A simulated attacker's steps, and the way back."""

from __future__ import annotations

import pytest
import torch

from holdfast.defences.tar.moving import adamw_step, moving
from holdfast.errors import TrainingError


def test_the_steps_are_torchs_adamw() -> None:
    generator = torch.Generator().manual_seed(0)
    start, *slopes = (torch.randn(4, 3, generator=generator) for _ in range(6))
    theirs = start.clone().requires_grad_(True)
    optimiser = torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.1)
    ours, first, second = start.clone(), torch.zeros(4, 3), torch.zeros(4, 3)
    for number, slope in enumerate(slopes, start=1):
        theirs.grad = slope.clone()
        optimiser.step()
        adamw_step(ours, slope, first, second, number, rate=0.02, decay=0.1)
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-7, rtol=1e-6)


def test_the_first_step_worked_by_hand() -> None:
    """m / (1 - b1) = g and sqrt(v / (1 - b2)) = |g|: w goes by the rate, against the sign."""
    w = torch.tensor([1.0, -2.0])
    moments = torch.zeros(2), torch.zeros(2)
    adamw_step(w, torch.tensor([4.0, -0.5]), *moments, 1, rate=0.1, decay=0.5)
    torch.testing.assert_close(w, torch.tensor([0.95 - 0.1, -1.9 + 0.1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_weights_walk_in_place_and_return(dtype: torch.dtype, optimiser: str) -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]).to(dtype))
    before, where = p.detach().clone(), p.data_ptr()
    with moving({"p": p}, optimiser) as walk:
        for _ in range(2):
            walk.step({"p": torch.tensor([2.0, -2.0])}, 0.1)
        assert p.data_ptr() == where
        gone = {"adamw": 0.2, "sgd": 0.4}[optimiser]
        assert p.tolist() == pytest.approx([1.0 - gone, -2.0 + gone], abs=0.01)
        assert walk.survived("walk")["cosine"] > 0.99
    assert torch.equal(p, before)
    assert p.grad is None


def test_steps_too_small_for_bf16_add_up_in_a_master() -> None:
    """Around 1 they lie 2^-7 apart: a hundred steps of 1e-3 arrive, though each is lost."""
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    with moving({"p": p}, "sgd") as walk:
        for _ in range(100):
            walk.step({"p": torch.tensor([1.0, -1.0])}, 1e-3)
        assert p.tolist() == pytest.approx([0.9, 1.1], abs=0.005)
        walk.survived("walk")


def test_after_an_error_the_weights_are_back() -> None:
    p = torch.nn.Parameter(torch.ones(2))

    def fail() -> None:
        with moving({"p": p}) as walk:
            walk.step({"p": torch.ones(2)}, 0.5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert p.tolist() == [1.0, 1.0]


def test_a_walk_that_products_do_not_see_is_told() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    with torch.autocast("cpu", torch.bfloat16), moving({"p": p}, "sgd") as walk:
        walk.step({"p": torch.ones(2)}, 1e-4)
        assert p[0] < 1
        with pytest.raises(TrainingError) as caught:
            walk.survived("walk")
    assert str(caught.value) == (
        "walk: lost to rounding (cosine 0.00, norm ratio 0.00); "
        "use precision: fp32 or a larger step"
    )
