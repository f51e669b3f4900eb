"""SIGKILL anywhere, then the same command: the same rows, and nothing left lying about."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest

KILLER = Path(__file__).with_name("killer.py")
TABLES = (
    "rows.csv", "lineups.csv", "costs.csv", "free.csv", "verdict.json", "outcomes.parquet",
    "rows.parquet", "costs.parquet", "free.parquet",
)  # fmt: skip
Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def start(root: Path, toy: ModuleType, toy_model: Path, toy_plugin: Path, tmp_path_factory) -> Run:
    """Give a function that starts `holdfast run` on the toy study in a process of its own."""
    study = toy.write(tmp_path_factory.mktemp("study") / "toy.json", toy.study(toy_model))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(toy_plugin)])}

    def run(store: Path, *, killer: Sequence[str] = (), workers: int = 1) -> subprocess.Popen[str]:
        head = [str(KILLER), *killer] if killer else ["-m", "holdfast"]
        options = ["run", str(study), "--store", str(store), "--workers", str(workers)]
        return subprocess.Popen(
            [sys.executable, *head, *options],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def whole(start: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Give the tables of a run nobody interrupted."""
    store = tmp_path_factory.mktemp("whole")
    finish(start(store))
    return tables(store)


def tables(store: Path) -> dict[str, bytes]:
    return {name: (store / "toy" / name).read_bytes() for name in TABLES}


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def left_over(store: Path) -> list[str]:
    """Name every temporary file or folder, and every checkpoint of unfinished work."""
    found = [path for path in store.rglob("*") if "tmp-" in path.name or path.suffix == ".part"]
    return [str(path) for path in (*found, *store.glob("work"))]


KILLS = {
    "training step": ("torch.optim:AdamW.step", "5", "before"),
    "checkpoint write": ("holdfast.train.checkpoint:save_file", "1", "after"),
    "rename": ("holdfast.disk:rename", "3", "before"),
    "generation": ("holdfast.evaluate.generation:of_ids", "60", "before"),
    "judging": ("toy_judge:ToyJudge.judge", "9", "before"),
}
"""Where to kill: the function, at which of its calls, before or after its own work."""


def kill(start: Run, store: Path, inside: str) -> None:
    """Start the command and see it die inside a function, with no report made."""
    process = start(store, killer=KILLS[inside])
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    assert not (store / "toy").exists()


@pytest.mark.slow
def test_five_kills_inside_one_after_another_cost_nothing_but_time(
    start: Run, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """What each kill leaves is what the next process goes on from."""
    for inside in KILLS:
        kill(start, tmp_path, inside)

    finish(start(tmp_path))

    assert tables(tmp_path) == whole
    assert left_over(tmp_path) == []


def test_five_kills_at_random_times_with_two_workers(
    start: Run, whole: dict[str, bytes], tmp_path: Path
) -> None:
    chance = random.Random(5)
    for _ in range(5):
        process = start(tmp_path, workers=2)
        goal = made(tmp_path) + chance.randint(1, 12)
        while made(tmp_path) < goal:
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        workers = children(process.pid)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert gone(workers)

    finish(start(tmp_path, workers=2))

    assert tables(tmp_path) == whole
    assert left_over(tmp_path) == []


def test_a_dead_worker_is_one_line_and_the_rest_goes_on(
    start: Run, whole: dict[str, bytes], tmp_path: Path
) -> None:
    process = start(tmp_path, workers=2)
    assert process.stderr is not None
    while "defend" not in process.stderr.readline():
        pass
    victim = children(process.pid)[0]
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=120)

    last = err.splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("holdfast: ")
    assert ": its worker was killed by SIGKILL; run the same command again; the rest is in" in last
    verdict = json.loads((tmp_path / "toy" / "verdict.json").read_text())
    assert verdict["complete"] is False
    assert "its worker was killed by SIGKILL" in verdict["answer"][0]

    finish(start(tmp_path))
    assert tables(tmp_path) == whole


def test_stopped_by_hand_is_one_line_and_no_worker_stays(start: Run, tmp_path: Path) -> None:
    process = start(tmp_path, workers=2)
    assert process.stderr is not None
    process.stderr.readline()
    workers = children(process.pid)
    for pid in (process.pid, *workers):  # what a terminal's Ctrl-C reaches
        os.kill(pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert err.splitlines()[-1] == "holdfast: run: stopped; the same command continues"
    assert "Traceback" not in err
    assert gone(workers)


def test_a_worker_whose_parent_has_ended_says_nothing(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "holdfast.engine.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stderr is not None
    worker.stdout.close()
    first = {"study": {}, "store": str(tmp_path), "parent": os.getpid(), "rehearsal": False}
    with worker.stdin, worker.stderr:
        worker.stdin.write(json.dumps(first).encode() + b"\n")
        worker.stdin.flush()
        assert worker.stderr.read() == b""
    assert worker.wait() == 1


def made(store: Path) -> int:
    """Count the finished artefacts of a store."""
    return sum(1 for kind in ("defend", "generate", "judge") for _ in store.glob(f"{kind}/*"))


def children(parent: int) -> list[int]:
    """Give the processes a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return sorted(found)


def gone(pids: list[int]) -> bool:
    """Wait until processes have ended, at most five seconds."""
    for _ in range(100):
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
