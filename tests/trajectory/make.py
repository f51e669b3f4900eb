"""Write the stored trajectories anew: `python -m tests.trajectory.make [NAME ...]` (2 minutes).

Run it from the repository's root, only after a change that is meant to give other numbers, and
raise that method's `version` in the same commit (other fields of a case below need none). Each file
holds the losses of 20 steps, and how far each series moves when the start weights are rounded
otherwise: what the test may then forgive. A series that moves too far is ill-conditioned. Two
processors would not agree on it, so it is not stored: choose other fields for that method.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tests import tiny

from holdfast.api import Loop, registry, set_threads
from holdfast.train import harden

HERE = Path(__file__).parent
STEPS = 20
# Whole loops: what a method's author chose for its own must not enter here.
LOOP = Loop(steps=STEPS, batch=4, lr=0.01, schedule="linear", warmup=3).model_dump()
STAGE_1 = Loop(steps=STEPS, batch=4, lr=0.03).model_dump()
CASES: dict[str, dict[str, Any]] = {
    "refusal_sft": {"loop": LOOP},
    "sgt": {
        "loop": LOOP,
        "stage1": STAGE_1,
        "alpha_align": 0.1,
        "alpha_repel": 0.02,
        "cons": {"sigma": 0.2},
    },
    "booster": {"loop": LOOP},
    "rep_noise": {"loop": LOOP, "noise_weight": 0.1, "ascent_weight": 0.3},
    "sdd": {"loop": LOOP, "benign_weight": 0.5},
    "vaccine": {"loop": LOOP},
    "t_vaccine": {"loop": LOOP, "layers": 2, "measure_every": 10, "draw_every": 2},
    "random_vaccine": {"loop": LOOP},
    "ctrap": {"loop": LOOP, "lam": 0.5, "alpha": 0.05},
    # A shift of 0.01 would divide rounding by 0.01.
    "seam": {"loop": LOOP, "ascent_weight": 0.2, "couple_weight": 0.1, "eps": 0.1},
    "circuit_breakers": {"loop": LOOP, "turn": 0.1},
    # At a rate of 0.01 the benign term is soon a small rest of large distances.
    "triplet": {"loop": LOOP | {"lr": 0.003}, "benign_margin": 0.6},
    # AdamW moves a weight whose gradient is 0 but for rounding by a whole step, unless epsilon is
    # larger than that; the simulated attacks have no epsilon, so their steps are short.
    "tar": {
        "loop": LOOP | {"eps": 1e-4},
        "attack": {"steps": 3, "every": 2, "rates": (0.001, 0.003), "switch": 0.5},
    },
}
FAMILIES = ("llama", "qwen3")

JITTERS = 5
"""Starts that differ by rounding alone, from which each trajectory is run again."""
LARGEST = 1e-4
"""Largest tolerance, relative, with which a series is worth storing."""


def tolerance(spread: float) -> float:
    """Give how far a series may lie off, from how far one rounding of each start weight moves it.

    Another processor or version of torch rounds otherwise in every step, not at the start alone. If
    all roundings count alike and are independent, that is sqrt(STEPS) times as far; twice that,
    since the spread is itself the largest of only a few draws.
    """
    return 2 * math.sqrt(STEPS) * spread


def path(name: str, family: str) -> Path:
    """Give where a trajectory is stored."""
    return HERE / f"{name}-{family}.json"


def trajectory(name: str, family: str, jitter: int = 0) -> dict[str, Any]:
    """Run 20 steps (of each stage) in fp32 on one thread; give the method's version and losses.

    With a `jitter`, every start weight is first rounded up or down by one, by chance.
    """
    torch.manual_seed(0)
    method: Any = registry.make("defence", {name: CASES[name]}, "trajectory")
    model = tiny.jittered(tiny.model(family), jitter) if jitter else tiny.model(family)
    bos = family == "llama"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        harden(method, model, tiny.encoder(bos=bos), tiny.pool(), seed=0, work=work)
        lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    losses: dict[str, list[float]] = {}
    for line in lines:
        if "loss" in line:
            losses.setdefault(line["part"], []).append(line["loss"])
            for key, value in line.items():
                if key.endswith("_mean"):
                    losses.setdefault(f"{line['part']}/{key}", []).append(value)
    return {"version": method.version, "losses": losses}


def apart(series: list[float], other: list[float]) -> list[float]:
    """Give the differences of two series, relative to the first one's largest value."""
    size = max(abs(value) for value in series)
    return [(b - a) / size for a, b in zip(series, other, strict=True)]


def measured(name: str, family: str) -> dict[str, Any]:
    """Give a trajectory with the `spread` of each series over the jittered starts."""
    plain = trajectory(name, family)
    others = [trajectory(name, family, jitter)["losses"] for jitter in range(1, JITTERS + 1)]
    plain["spread"] = {
        part: max(tiny.ROUNDING, *(abs(x) for one in others for x in apart(series, one[part])))
        for part, series in plain["losses"].items()
    }
    return plain


def main(names: list[str]) -> None:
    """Write the files of the methods named, or of all."""
    set_threads(1)
    for name in names or CASES:
        for family in FAMILIES:
            found = measured(name, family)
            for part, spread in found["spread"].items():
                if tolerance(spread) > LARGEST:
                    sys.exit(
                        f"{name} on {family}: {part} is ill-conditioned: one rounding of the "
                        f"start weights moves it by {spread:.1e}; choose other fields"
                    )
            text = json.dumps(found, indent=1)
            path(name, family).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
