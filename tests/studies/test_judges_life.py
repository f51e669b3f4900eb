"""A judge is opened once a run and worker, on the study's device, and closed however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.cli import run
from holdfast.engine.store import Store
from holdfast.engine.tasks import JUDGING, Task, choose
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan

JUDGE = """
import os
import time
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from holdfast.api import Judge, Outcome, Scale, Verdict


class LivingJudge(Judge):
    \"\"\"Writes down what is done to it; `word` may make it fail.\"\"\"

    scale: ClassVar[Scale] = Scale(1, 5, 4)
    log: str
    word: str = ""
    _model: Any = PrivateAttr(None)

    def note(self, what):
        with Path(self.log).open("a") as file:
            file.write(f"{os.getpid()} {self.name()} {what}\\n")

    def open(self, device):
        self.note(f"open {device}")
        if self.word == "shut":
            raise OSError("no weights")
        self._model = object()

    def judge_many(self, exchanges):
        assert self._model is not None
        self.note(f"read {len(exchanges)}")
        if self.word == "slow":
            time.sleep(60)
        if self.word == "stop":
            raise KeyboardInterrupt
        if self.word == "short":
            return []
        return [Verdict(1.0, Outcome.REFUSAL) for _ in exchanges]

    def close(self):
        self._model = None
        self.note("close")
"""
NAMES = ("living_judge", "other_judge")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, toy: ModuleType) -> Iterator[Path]:
    """Install the toy world and two judges that write down their lives."""
    folder = tmp_path_factory.mktemp("living")
    toy.install(folder)
    for name in NAMES:
        (folder / f"{name}.py").write_text(JUDGE)
    info = folder / "living-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: living\nVersion: 1.0\n")
    points = "".join(f"{name} = {name}:LivingJudge\n" for name in NAMES)
    (info / "entry_points.txt").write_text(f"[holdfast.judges]\n{points}")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)


Make = Callable[..., Path]


@pytest.fixture
def study(tmp_path: Path, toy: ModuleType, toy_model: Path, site: Path) -> Make:
    """Give a function that writes a study with some judges, and their log beside it."""

    def make(*words: str) -> Path:
        log = str(tmp_path / "log")
        judges = [
            {name: {"log": log, "word": word}} for name, word in zip(NAMES, words, strict=False)
        ]
        return toy.write(tmp_path / "study.json", toy.study(toy_model, judges=judges))

    return make


def command(path: Path, *options: str, workers: int = 1) -> int:
    store = str(path.parent / "runs")
    return run(["run", str(path), "--store", store, "--workers", str(workers), *options])


def life(path: Path) -> list[tuple[str, str, str]]:
    """Give process, judge and what was done, in order."""
    lines = (path.parent / "log").read_text().splitlines()
    return [(pid, name, what) for pid, name, what in (line.split(" ", 2) for line in lines)]


def test_in_one_process_each_judge_is_opened_once_one_after_the_other(study: Make) -> None:
    path = study("", "")
    assert command(path) == 0
    done = [f"{name} {what}" for _, name, what in life(path) if not what.startswith("read")]
    assert done == [
        "living_judge open cpu", "living_judge close", "other_judge open cpu", "other_judge close"
    ]  # fmt: skip
    assert sum(what.startswith("read") for _, _, what in life(path)) > 4

    (path.parent / "log").unlink()
    assert command(path) == 0  # nothing waits to be read: nobody is opened
    assert not (path.parent / "log").exists()


def test_of_several_workers_one_opens_a_judge_and_reads_all_that_waits(study: Make) -> None:
    path = study("", "")
    assert command(path, workers=2) == 0
    told = life(path)
    for step in ("open cpu", "close"):
        assert Counter(name for _, name, what in told if what == step) == dict.fromkeys(NAMES, 1)
    for name in NAMES:
        assert len({pid for pid, other, _ in told if other == name}) == 1


def test_answers_of_a_chunk_are_read_at_once_and_each_but_once(study: Make) -> None:
    path = study("")
    assert command(path) == 0
    read = [int(what.split()[1]) for _, _, what in life(path) if what.startswith("read")]
    assert max(read) == 5  # the study's chunk
    plan, store = Plan(parse_study(json.loads(path.read_text()))), Store(path.parent / "runs")
    lines = sum(len(store.lines("judge", key, "verdicts.jsonl")) for key in plan.needed["judge"])
    assert 0 < sum(read) <= lines


def test_verdicts_of_another_number_are_errors_and_the_results_invalid(study: Make) -> None:
    path = study("short")
    assert command(path) == 3
    plan, store = Plan(parse_study(json.loads(path.read_text()))), Store(path.parent / "runs")
    lines = [
        line for key in plan.needed["judge"] for line in store.lines("judge", key, "verdicts.jsonl")
    ]
    assert {line["reason"] for line in lines} == {"error"}
    assert all(line["raw"].startswith("the judge gave 0 verdicts for ") for line in lines)


def test_a_judge_that_cannot_be_opened_is_tried_once_and_the_rest_is_reported(
    study: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study("", "shut")
    assert command(path) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("holdfast: judge ")
    told = "other_judge: judge 'other_judge': cannot be opened on cpu (OSError: no weights); mend "
    assert f"{told}what it needs and run again; the rest is in " in line
    assert Counter(name for _, name, what in life(path) if what.startswith("open")) == {
        "living_judge": 1, "other_judge": 1
    }  # fmt: skip
    assert ("other_judge", "close") not in [(name, what) for _, name, what in life(path)]


def test_ctrl_c_in_the_middle_closes_the_judge(study: Make) -> None:
    path = study("stop")
    assert command(path) == 130
    assert [what for _, _, what in life(path)][-1] == "close"


def test_ctrl_c_closes_the_judges_of_workers(study: Make, site: Path) -> None:
    path = study("slow")
    arguments = ["run", str(path), "--store", str(path.parent / "runs"), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), os.environ["PYTHONPATH"]])},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    log = path.parent / "log"
    try:
        until = time.monotonic() + 240
        while not (log.is_file() and "read" in log.read_text()):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()
    told = Counter(what.split()[0] for _, _, what in life(path))
    assert told["open"] == told["close"] > 0


def test_rescore_and_judge_open_and_close_too(
    study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study("")
    assert command(path) == 0
    (tmp_path / "log").unlink()
    judge = json.dumps({"other_judge": {"log": str(tmp_path / "log")}})
    store = ["--store", str(tmp_path / "runs")]
    assert run(["rescore", str(path), "--judge", judge, *store]) == 0
    steps = [what for _, name, what in life(path) if name == "other_judge"]
    assert (steps[0], steps[-1], steps.count("close")) == ("open cpu", "close", 1)

    monkeypatch.chdir(tmp_path)
    lines = [{"uid": str(i), "prompt": f"say {i}.", "response": "no"} for i in range(300)]
    Path("said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    sets = ["--set", "log=alone"]
    given = ["--exchanges", "said.jsonl", "--out", "judged.jsonl"]
    assert run(["judge", "living_judge", *given, *sets]) == 0
    told = [line.split(" ", 2)[2] for line in Path("alone").read_text().splitlines()]
    assert told == ["open cpu", "read 256", "read 44", "close"]
    assert len(Path("judged.jsonl").read_text().splitlines()) == 300


def test_judging_waits_until_nothing_else_can_begin() -> None:
    def task(name: str, rank: int, *after: str) -> Task:
        return Task(name, (), name, set(after), rank=rank)

    first, second, attack = task("a", JUDGING), task("b", JUDGING + 1), task("c", 1, "running")
    todo: list[Any] = [second, first, attack]
    assert choose(todo, {"running"}, "") is None  # another worker makes what the attack needs
    assert choose(todo, set(), "") is attack
    assert choose([second, first], {"running"}, "") is first
    assert choose([second], {"running"}, "") is second


def test_a_judge_that_is_loaded_belongs_to_one_worker() -> None:
    def task(name: str, alone: bool) -> Task:
        return Task(name, (), name, rank=JUDGING, alone=alone)

    loaded, light = task("a", alone=True), task("b", alone=False)
    assert choose([loaded], set(), "", taken={JUDGING}) is None
    assert choose([loaded], set(), "", taken={JUDGING + 1}) is loaded
    assert choose([light], set(), "", taken={JUDGING}) is light
