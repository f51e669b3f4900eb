"""From risk to weights: the published table, hand-worked numbers, the mixture law."""

from __future__ import annotations

import pytest
import torch

from holdfast import nn

GRADES = [1, 2, 2.3, 2.5, 3, 3.5, 4, 4.7, 5]
RAMP = [0.10, 0.10, 0.10, 1 / 6, 1 / 3, 0.50, 2 / 3, 0.90, 0.90]
AFFINE = [0.10, 0.30, 0.36, 0.40, 0.50, 0.60, 0.70, 0.84, 0.90]


def test_ramp_and_affine_are_the_published_tables() -> None:
    risk = (torch.tensor(GRADES) - 1) / 4
    torch.testing.assert_close(nn.ramp(risk), torch.tensor(RAMP), atol=1e-6, rtol=0)
    torch.testing.assert_close(nn.affine(risk), torch.tensor(AFFINE), atol=1e-6, rtol=0)
    assert nn.constant(risk, 0.25).tolist() == [0.25] * len(GRADES)
    assert nn.stepped(torch.tensor([0.2, 0.5]), 0.5, 0.0, 1.0).tolist() == [0.0, 1.0]


def test_float64_twins_of_the_schedules() -> None:
    risk = torch.rand(200, generator=torch.Generator().manual_seed(1))
    exact = [min(max((1 + 4 * float(s) - 2) / 3, 0.1), 0.9) for s in risk.double()]
    torch.testing.assert_close(
        nn.ramp(risk).double(), torch.tensor(exact).double(), atol=1e-6, rtol=0
    )
    line = [0.1 + 0.8 * float(s) for s in risk.double()]
    torch.testing.assert_close(
        nn.affine(risk).double(), torch.tensor(line).double(), atol=1e-6, rtol=0
    )


def test_one_risky_row_of_eight_vanishes_in_a_mean_and_not_by_itself() -> None:
    risk = torch.tensor([1.0] + [0.0] * 7)

    def beta(how: str) -> list[float]:
        return [round(b, 6) for b in nn.ramp(nn.aggregated(risk, how)).tolist()]  # type: ignore[arg-type]

    assert beta("per_sample") == [0.9] + [0.1] * 7
    assert beta("batch_mean") == [0.1] * 8
    assert beta("batch_max") == [0.9] * 8
    assert beta("first_row") == [0.9] * 8


def test_smoothing_rises_at_once_and_falls_slowly() -> None:
    assert nn.smoothed(torch.tensor([0.0, 1.0]), 0.8, 0.5).tolist() == pytest.approx([0.4, 1.0])
    assert nn.smoothed(torch.tensor([0.9]), 0.1, 0.5).tolist() == pytest.approx([0.9])
    assert nn.smoothed(torch.tensor([0.3]), 1.0, 0.0).tolist() == pytest.approx([0.3])


def test_the_operating_point_is_the_highest_threshold_with_that_recall() -> None:
    risky = [0.1, 0.6, 0.7, 0.9]
    assert nn.operating_point(risky, [0.05, 0.65], 1.0) == (0.1, 1.0, 0.5)
    assert nn.operating_point(risky, [0.05, 0.65], 0.75) == (0.6, 0.75, 0.5)
    assert nn.operating_point(risky, [0.05, 0.65], 0.5) == (0.7, 0.5, 0.0)


def test_the_mixture_is_a_weighted_mean_whatever_the_weights_add_up_to() -> None:
    data, reference = torch.tensor([1.0, 0.0]), torch.tensor([0.2, 0.8])
    assert nn.mixture(data, reference, 0.1, 0.9).tolist() == pytest.approx([0.28, 0.72])
    assert nn.mixture(data, reference, 1.0, 3.0).tolist() == pytest.approx([0.4, 0.6])
