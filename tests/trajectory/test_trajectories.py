"""Twenty steps of each method give the numbers they gave when its version was last raised."""

from __future__ import annotations

import json

import pytest
from tests.trajectory import make

from holdfast import find

TOLERANCE = 1e-4
"""Relative, and of the largest loss: other processors and versions of torch round otherwise."""


def compare(stored: list[float], now: list[float]) -> str:
    """Say what is wrong with a trajectory: a step far off, or all steps off to one side."""
    if len(stored) != len(now):
        return f"{len(now)} steps, {len(stored)} stored"
    size = max(abs(value) for value in stored)
    apart = [(b - a) / size for a, b in zip(stored, now, strict=True)]
    worst = max(range(len(apart)), key=lambda i: abs(apart[i]))
    if abs(apart[worst]) > TOLERANCE:
        return f"step {worst + 1}: {now[worst]}, stored {stored[worst]}"
    bias = sum(apart) / len(apart)
    above = sum(d > 3e-6 for d in apart)
    below = sum(d < -3e-6 for d in apart)
    if abs(bias) > TOLERANCE / 4 or (above + below >= 16 and min(above, below) == 0):
        return f"drifts to one side (mean {bias:.1e}, {above} above, {below} below)"
    return ""


@pytest.mark.parametrize("family", make.FAMILIES)
@pytest.mark.parametrize("name", make.CASES)
def test_twenty_steps_are_what_they_were(name: str, family: str) -> None:
    stored = json.loads(make.path(name, family).read_text(encoding="utf-8"))
    now = make.trajectory(name, family)
    assert now["version"] == stored["version"], (
        f"the version of {name} was raised: run python -m tests.trajectory.make {name}"
    )
    assert now["losses"].keys() == stored["losses"].keys()
    for part, losses in stored["losses"].items():
        wrong = compare(losses, now["losses"][part])
        assert not wrong, (
            f"{name} on {family}, {part}: {wrong}. If other numbers are meant, raise the method's "
            f"`version` and run python -m tests.trajectory.make {name}"
        )


def test_every_method_that_trains_has_a_stored_trajectory() -> None:
    inside = [n for n in find.names("defence") if find.origin("defence", n) == "holdfast"]
    trained = {n for n in inside if "loop" in find.find("defence", n).model_fields}
    assert set(make.CASES) == trained
    assert {path.stem for path in make.HERE.glob("*.json")} == {
        f"{name}-{family}" for name in make.CASES for family in make.FAMILIES
    }


def test_the_comparison_finds_steps_far_off_and_drift_and_lets_rounding_be() -> None:
    stored = [5.0 - 0.1 * i for i in range(20)]
    assert not compare(stored, stored)
    assert not compare(stored, [x * (1 + 2e-6 * (-1) ** i) for i, x in enumerate(stored)])
    assert compare(stored, stored[:-1]) == "19 steps, 20 stored"
    far = list(stored)
    far[7] += 0.01
    assert compare(stored, far).startswith("step 8: ")
    assert compare(stored, [x * (1 + 5e-5) for x in stored]).startswith("drifts to one side")
    assert compare(stored, [x * (1 + 5e-6) for x in stored]).startswith("drifts to one side")
