"""Write the stored trajectories anew: `python -m tests.trajectory.make [NAME ...]` (2 minutes).

Run it from the repository's root, only after a change that is meant to give other numbers, and
raise that method's `version` in the same commit (other `fields` in a file need none). Each file
holds a method's fields, the losses of 20 steps at them, and how far each series moves when the
start weights are rounded otherwise: what the test may then forgive. A series that moves too far is
ill-conditioned. Two processors would not agree on it, so it is not stored: choose other fields in
the file. A method without a file gets its defaults and the loop below.

Why some have other fields: SEAM's shift of 0.01 would divide rounding by 0.01; at a rate of 0.01
Triplet's benign term is soon a small rest of large distances; AdamW moves a weight whose gradient
is 0 but for rounding by a whole step unless epsilon is larger than that (TAR), and TAR's simulated
attacks have no epsilon, so their steps are short.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from holdfast.api import Loop, Stage, TrainedDefence, registry, set_threads
from holdfast.errors import HoldfastError
from holdfast.testing import tiny
from holdfast.train import harden, tune

HERE = Path(__file__).parent
STEPS = 20
# Whole loops: what a method's author chose for its own must not enter here.
LOOP = Loop(steps=STEPS, batch=4, lr=0.01, schedule="linear", warmup=3).model_dump()
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


def methods() -> list[str]:
    """Name this package's defences that train."""
    inside = [n for n in registry.names("defence") if registry.origin("defence", n) == "holdfast"]
    return [n for n in inside if issubclass(registry.find("defence", n), TrainedDefence)]


def fields(name: str) -> dict[str, Any]:
    """Give the fields a method is run at: those in its file, or its defaults on the loop here."""
    file = path(name, FAMILIES[0])
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))["fields"]
    return {"loop": LOOP}


def trajectory(name: str, family: str, jitter: int = 0) -> dict[str, Any]:
    """Run 20 steps (of each stage) in fp32 on one thread; give the method's version and losses.

    With a `jitter`, every start weight is first rounded up or down by one, by chance.
    """
    torch.manual_seed(0)
    method: Any = registry.make("defence", {name: fields(name)}, "trajectory")
    model = tiny.jittered(tiny.model(family), jitter) if jitter else tiny.model(family)
    bos = family == "llama"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        encoder, pool = tiny.encoder(bos=bos), tiny.pool()
        if method.when is Stage.TUNE:
            tune(method, model, encoder, tiny.customer(), pool, seed=0, work=work)
        else:
            harden(method, model, encoder, pool, seed=0, work=work)
        lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    losses: dict[str, list[float]] = {}
    for line in lines:
        if "loss" in line:
            losses.setdefault(line["part"], []).append(line["loss"])
            for key, value in line.items():
                if key.endswith("_mean"):
                    losses.setdefault(f"{line['part']}/{key}", []).append(value)
    return {"fields": fields(name), "version": method.version, "losses": losses}


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
    for name in names or methods():
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
            sys.stdout.write(f"{path(name, family)}\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except HoldfastError as problem:
        sys.exit(str(problem))
