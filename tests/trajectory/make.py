"""Write the stored trajectories anew: `python -m tests.trajectory.make [NAME ...]`.

Run it from the repository's root, only after a change that is meant to give other numbers, and
raise that method's `version` in the same commit. Each file holds the losses of 20 steps.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tests import tiny

from holdfast import find
from holdfast.run import Loop, set_threads
from holdfast.training import harden

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
    "seam": {"loop": LOOP, "ascent_weight": 0.2, "couple_weight": 0.1, "eps": 0.01},
    "circuit_breakers": {"loop": LOOP, "turn": 0.1},
    "triplet": {"loop": LOOP},
    "tar": {
        "loop": LOOP,
        "attack": {"steps": 3, "every": 2, "rates": (0.003, 0.01), "switch": 0.5},
    },
}
FAMILIES = ("llama", "qwen3")


def path(name: str, family: str) -> Path:
    """Give where a trajectory is stored."""
    return HERE / f"{name}-{family}.json"


def trajectory(name: str, family: str) -> dict[str, Any]:
    """Run 20 steps (of each stage) in fp32 on one thread; give the method's version and losses."""
    torch.manual_seed(0)
    method: Any = find.make("defence", {name: CASES[name]}, "trajectory")
    bos = family == "llama"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        harden(method, tiny.model(family), tiny.encoder(bos=bos), tiny.pool(), seed=0, work=work)
        lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    losses: dict[str, list[float]] = {}
    for line in lines:
        if "loss" in line:
            losses.setdefault(line["part"], []).append(line["loss"])
            for key, value in line.items():
                if key.endswith("_mean"):
                    losses.setdefault(f"{line['part']}/{key}", []).append(value)
    return {"version": method.version, "losses": losses}


def main(names: list[str]) -> None:
    """Write the files of the methods named, or of all."""
    set_threads(1)
    for name in names or CASES:
        for family in FAMILIES:
            text = json.dumps(trajectory(name, family), indent=1)
            path(name, family).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
