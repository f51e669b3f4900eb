"""The packed distance equals the padded one that the equations' twins check."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.defences.sgt.diagnostics import squared_distance


@pytest.mark.parametrize("hidden", ["mean", "sum"])
@pytest.mark.parametrize("tokens", ["mean", "sum"])
@pytest.mark.parametrize("relative", [False, True])
def test_values_and_gradients_equal_the_padded_form(
    hidden: Any, tokens: Any, relative: bool
) -> None:
    torch.manual_seed(0)
    student = torch.randn(3, 5, 4, requires_grad=True)
    teacher = torch.randn(3, 5, 4)
    select = torch.zeros(3, 5, dtype=torch.bool)
    select[0, 1:3], select[2, 4] = True, True  # the second row has none
    how = {"over_hidden": hidden, "over_tokens": tokens, "relative": relative}
    expected = squared_distance([student], [teacher], select, **how)[0]
    at = select.flatten().nonzero()[:, 0]
    flat = student.flatten(0, 1)
    ours = nn.matched_distance(
        flat, teacher.flatten(0, 1)[at], at, select.nonzero()[:, 0], 3, **how
    )
    torch.testing.assert_close(ours, expected)
    weights = torch.tensor([1.0, 2.0, 3.0])
    (found,) = torch.autograd.grad((ours * weights).sum(), student)
    (told,) = torch.autograd.grad((expected * weights).sum(), student)
    torch.testing.assert_close(found, told)


def test_half_precision_states_are_compared_in_fp32() -> None:
    student = torch.full((2, 3), 1.0, dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.full((1, 3), 1.0078125, dtype=torch.bfloat16)
    found = nn.matched_distance(
        student, teacher, torch.tensor([1]), torch.tensor([0]), 1, over_hidden="sum"
    )
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(3 * 0.0078125**2)
    (slope,) = torch.autograd.grad(found.sum(), student)
    assert slope.dtype == torch.bfloat16
    assert not slope[0].any()
