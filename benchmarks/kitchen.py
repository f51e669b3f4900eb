"""Run the kitchen's studies on one machine, in two lanes side by side; say tokens a second.

    python benchmarks/kitchen.py --device cuda --workers 14 --seconds 450 --out kitchen-gpu
    python benchmarks/kitchen.py --figures --device cuda      # tokens a second alone
    python benchmarks/kitchen.py --device cuda --workers 14 --only eight rivals

One lane runs first.yaml, eight.yaml and alpha.yaml. The other runs what the committed log lacks of
the rivals' trials, puts the winners' fields into a copy of rivals.yaml and runs that. When
`--seconds` are over, what is done is reported and the rest is left; the same command goes on.
`OUT/NAME` holds each report's rows.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from holdfast import evaluate, nn
from holdfast.api.registry import make
from holdfast.data.example import Role, Side
from holdfast.data.format import Format
from holdfast.data.pool import Pool
from holdfast.errors import HoldfastError
from holdfast.nn.files import resolve
from holdfast.train import harden

STUDIES = Path(__file__).parents[1] / "studies" / "kitchen"
LANES = (("first", "eight", "alpha"), ("rivals.trials", "rivals"))
SHARES = (0.6, 0.4)
"""Of the workers, by lane."""
ROWS = ("outcomes.parquet", "lineups.parquet", "analysis.parquet", "meta.json")
"""What a report is made again from."""
FIRST = 3
"""Steps that are not timed: the first ones make room."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the lanes; give 1 where a study did not end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes of both lanes together")
    parser.add_argument("--seconds", type=float, default=8 * 60)
    parser.add_argument("--out", type=Path, default=Path("kitchen-gpu"))
    parser.add_argument("--only", nargs="+", choices=sum(LANES, ()), help="of the studies, these")
    parser.add_argument("--figures", action="store_true", help="tokens a second, and no study")
    parser.add_argument("--steps", type=int, default=15, help="steps that the figures time")
    asked = parser.parse_args(arguments)
    if asked.figures:
        figures(asked.device, asked.steps)
        return 0
    until = time.monotonic() + asked.seconds
    wanted = [[name for name in names if name in (asked.only or names)] for names in LANES]
    alone = sum(map(bool, wanted)) == 1
    lanes = [
        Lane(names, asked, max(1, round(asked.workers * (1 if alone else share))), until)
        for names, share in zip(wanted, SHARES, strict=True)
        if names
    ]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    for lane in lanes:
        for name, file in lane.cut.items():
            in_spite_of(file, lane.store, asked.out / f"report-{name}")
        keep(lane.names, asked.out)
    return int(any(lane.left for lane in lanes))


# ---- the studies


class Lane(threading.Thread):
    """Studies one after another; `left` names those that did not end, `cut` those cut off."""

    def __init__(self, names: Sequence[str], asked: Any, workers: int, until: float) -> None:
        super().__init__()
        self.names, self.asked, self.workers, self.until = names, asked, workers, until
        self.store = asked.out / f"store-{names[0]}"
        self.left: list[str] = []
        self.cut: dict[str, Path] = {}

    def run(self) -> None:
        """Run them all, each only while there is time."""
        for name in self.names:
            began = time.monotonic()
            code = self._one(name)
            print(f"{name}: exit {code} after {time.monotonic() - began:.0f} s", flush=True)
            if code:
                self.left.append(name)

    def _one(self, name: str) -> int:
        out, file = self.asked.out, STUDIES / f"{name}.yaml"
        if self.until <= time.monotonic():
            return -1
        out.mkdir(parents=True, exist_ok=True)
        log, known = out / "rivals.trials.jsonl", STUDIES / "rivals.trials.jsonl"
        if known.is_file() and not log.exists():
            shutil.copy(known, log)
        common = [
            f"--store={self.store}",
            f"--workers={self.workers}",
            f"--device={self.asked.device}",
        ]
        if name.endswith(".trials"):
            return self._call("trials", file, f"--log={log}", *common, told=out / f"{name}.log")
        if name == "rivals":
            file = with_winners(file, STUDIES / "rivals.trials.yaml", log, out / "rivals.yaml")
        report = out / f"report-{name}"
        code = self._call("run", file, f"--out={report}", *common, told=out / f"{name}.log")
        if code:
            self.cut[name] = file
        return code

    def _call(self, verb: str, *words: object, told: Path) -> int:
        """Run a command until the time is over; it is then interrupted as by Ctrl-C."""
        command = [sys.executable, "-m", "holdfast", verb, *map(str, words)]
        with told.open("ab") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
            try:
                return process.wait(max(1.0, self.until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                return process.wait()


def with_winners(study: Path, trials: Path, log: Path, into: Path) -> Path:
    """Write a copy of a study in which each line-up has the fields that won its trials.

    A line-up of a method without a winner stays as the study has it.
    """
    from ruamel.yaml import YAML

    from holdfast.engine.trials import Log
    from holdfast.report.trials import results, winners
    from holdfast.study.trials import load_trials

    kept = Log(log, load_trials(trials))
    chosen = winners(kept.said, results(kept.trials, kept.said.seeds, kept.lines))
    given = {(one.method, one.number): list(one.defences) for one in kept.trials}
    yaml = YAML(typ="safe")
    said = yaml.load(study)
    for name, one in chosen.items():
        if one.winner is not None:
            said["lineups"][name]["defences"] = given[name, one.winner.result.number]
    with into.open("w") as file:
        yaml.dump(said, file)
    return into


def keep(names: Sequence[str], out: Path) -> None:
    """Copy what each report is made again from into `OUT/NAME`."""
    for name in names:
        for file in map((out / f"report-{name}").joinpath, ROWS):
            if file.is_file():
                (out / name).mkdir(exist_ok=True)
                shutil.copy(file, out / name)


def in_spite_of(study: Path, store: Path, report: Path) -> None:
    """Report what there is of a study that did not end."""
    from holdfast.cli.writing import write_report
    from holdfast.engine.store import Store
    from holdfast.study.file import load_study
    from holdfast.study.plan import Plan

    try:
        report.mkdir(parents=True, exist_ok=True)
        write_report(Plan(load_study(study)), Store(store), report, False, "", [])
    except HoldfastError as error:
        print(f"{study.name}: no report ({error})", flush=True)


# ---- tokens a second


def figures(device: str, steps: int) -> None:
    """Say how fast the small model trains and answers, and what share of a matmul that is."""
    where = torch.device(device)
    kind = torch.cuda.get_device_name(where) if where.type == "cuda" else "a CPU"
    ceiling = matmul(where, torch.bfloat16)
    print(f"{kind}, torch {torch.__version__}; bf16 matmul {ceiling / 1e12:.3g} TFLOP/s")
    print("| what | tokens a second | share of the bf16 matmul |\n|---|---|---|")
    for label, method in (
        ("refusal_sft, 4 + 4 rows, fp32", sft(steps, 4, "fp32")),
        ("refusal_sft, 4 + 4 rows, fp32_master", sft(steps, 4, "fp32_master")),
        ("refusal_sft, 64 + 64 rows, fp32_master", sft(steps, 64, "fp32_master")),
        ("sgt by its defaults, 4 + 4 rows, stage 1", {"sgt": stages(steps, 1)}),
        ("sgt by its defaults, 4 + 4 rows, stage 2", {"sgt": stages(1, steps)}),
    ):
        rate, share = trained(method, device, ceiling)
        print(f"| training: {label} | {rate:,.0f} | {100 * share:.2g} % |", flush=True)
    for dtype in (torch.float32, torch.bfloat16):
        for batch in (64, 512):
            rate, share = answered(device, dtype, batch, ceiling)
            label = f"{batch} at once, {str(dtype).removeprefix('torch.')}"
            print(f"| answers: {label} | {rate:,.0f} | {100 * share:.2g} % |", flush=True)


def sft(steps: int, batch: int, precision: str) -> dict[str, Any]:
    """Give refusal_sft with a loop of its own."""
    return {"refusal_sft": {"loop": {"steps": steps, "batch": batch, "precision": precision}}}


def stages(first: int, second: int) -> dict[str, Any]:
    """Give SGT's fields for so many steps of each stage, none of them ended early."""
    return {"stage1": {"steps": first}, "loop": {"steps": second}, "ending": None}


def loaded(device: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load the small model and its encoder."""
    model, tokenizer = nn.load(resolve("smol:instruct"), device=device)
    return model.to(dtype), nn.encoder(model, tokenizer, Format("chat"), where="benchmark")


def trained(method: dict[str, Any], device: str, ceiling: float) -> tuple[float, float]:
    """Time the last part's steps; give tokens a second, each pass counted, and the share."""
    model, encoder = loaded(device)
    pool = Pool.of([make("source", "kitchen", "benchmark")])
    clock: dict[str, list[float]] = {}

    def tick(part: str, step: int, steps: int, *_: object) -> None:
        if device != "cpu":
            torch.cuda.synchronize()
        clock.setdefault(part, []).append(time.perf_counter())

    defence: Any = make("defence", method, "benchmark")
    done = harden(defence, model, encoder, pool, seed=0, progress=tick)
    times = max(clock.values(), key=len)
    seconds = statistics.median(
        b - a for a, b in zip(times[FIRST:], times[FIRST + 1 :], strict=False)
    )
    flops = done.flops / len(times)
    parameters = sum(p.numel() for p in model.parameters())
    return flops / (6 * parameters) / seconds, flops / seconds / ceiling


def answered(device: str, dtype: torch.dtype, batch: int, ceiling: float) -> tuple[float, float]:
    """Time answers of 96 tokens; give tokens a second and the share."""
    model, encoder = loaded(device, dtype)
    pool = Pool.of([make("source", "kitchen", "benchmark")])
    roles = (Role.REFUSAL, Role.BENIGN)
    rows = [row for row in pool.rows(Side.DEFENDER) if row.role in roles]
    rows = [rows[i % len(rows)] for i in range(batch)]
    sampler = evaluate.Sampler(max_new_tokens=96, batch=batch)
    with torch.no_grad():
        list(evaluate.generate(model, encoder, rows[:8], sampler))
        began = time.perf_counter()
        said = [one.text for one in evaluate.generate(model, encoder, rows, sampler)]
        if device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    tokens = sum(len(ids) for ids in encoder.tokenizer(said)["input_ids"])
    parameters = sum(p.numel() for p in model.parameters())
    return tokens / seconds, 2 * parameters * tokens / seconds / ceiling


def matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Measure a large matmul, in FLOP/s; the best of five."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(5):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 5 * 2 * n**3 / (time.perf_counter() - began))
    return best


if __name__ == "__main__":
    sys.exit(main())
