"""Twenty steps of each method give the numbers they gave when its version was last raised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.trajectory import make


def compare(stored: list[float], now: list[float], spread: float) -> str:
    """Say what is wrong with a trajectory: a step far off, or all steps off to one side.

    `spread` is how far rounding alone moves the series, relative to its largest value.
    """
    if len(stored) != len(now):
        return f"{len(now)} steps, {len(stored)} stored"
    bound, apart = make.tolerance(spread), make.apart(stored, now)
    worst = max(range(len(apart)), key=lambda i: abs(apart[i]))
    if abs(apart[worst]) > bound:
        return f"step {worst + 1}: {now[worst]}, stored {stored[worst]}"
    bias = sum(apart) / len(apart)
    above = sum(d > spread for d in apart)
    below = sum(d < -spread for d in apart)
    if abs(bias) > bound / 4 or (above + below >= 16 and min(above, below) == 0):
        return f"drifts to one side (mean {bias:.1e}, {above} above, {below} below)"
    return ""


@pytest.mark.parametrize("family", make.FAMILIES)
@pytest.mark.parametrize("name", make.methods())
def test_twenty_steps_are_what_they_were(name: str, family: str) -> None:
    file = make.path(name, family)
    assert file.is_file(), f"run python -m tests.trajectory.make {name}"
    stored = json.loads(file.read_text(encoding="utf-8"))
    now = make.trajectory(name, family)
    assert now["version"] == stored["version"], (
        f"the version of {name} was raised: run python -m tests.trajectory.make {name}"
    )
    assert now["losses"].keys() == stored["losses"].keys() == stored["spread"].keys()
    for part, losses in stored["losses"].items():
        assert make.tolerance(stored["spread"][part]) <= make.LARGEST, f"{part} is ill-conditioned"
        wrong = compare(losses, now["losses"][part], stored["spread"][part])
        assert not wrong, (
            f"{name} on {family}, {part}: {wrong}. If other numbers are meant, raise the method's "
            f"`version` and run python -m tests.trajectory.make {name}"
        )


def test_no_stored_trajectory_is_left_of_a_method_that_is_gone() -> None:
    assert {path.stem for path in make.HERE.glob("*.json")} == {
        f"{name}-{family}" for name in make.methods() for family in make.FAMILIES
    }


def test_the_comparison_finds_steps_far_off_and_drift_and_lets_rounding_be() -> None:
    stored = [5.0 - 0.1 * i for i in range(20)]
    spread = 1e-6
    assert not compare(stored, stored, spread)
    assert not compare(stored, [x * (1 + 2e-6 * (-1) ** i) for i, x in enumerate(stored)], spread)
    assert compare(stored, stored[:-1], spread) == "19 steps, 20 stored"
    far = list(stored)
    far[7] += 1e-4
    assert compare(stored, far, spread).startswith("step 8: ")
    assert not compare(stored, far, 1e-5)
    for drift in (5e-6, 2.2e-6):
        drifted = [x * (1 + drift) for x in stored]
        assert compare(stored, drifted, spread).startswith("drifts to one side")


def test_what_rounding_moves_is_measured_and_an_ill_conditioned_series_is_not_stored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = make.trajectory("refusal_sft", "llama")
    other = make.trajectory("refusal_sft", "llama", jitter=1)
    moved = max(map(abs, make.apart(made["losses"]["refusal_sft"], other["losses"]["refusal_sft"])))
    assert 0 < moved < 1e-5
    spread = dict.fromkeys(made["losses"], 0.001)
    monkeypatch.setattr(make, "measured", lambda name, family: made | {"spread": spread})
    monkeypatch.setattr(make, "HERE", tmp_path)
    with pytest.raises(SystemExit, match="refusal_sft on llama: refusal_sft is ill-conditioned"):
        make.main(["refusal_sft"])
    assert not list(tmp_path.iterdir())
