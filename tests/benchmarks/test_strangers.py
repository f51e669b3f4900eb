"""A cut of what strangers break, and that the script sees each way in which it may be told badly.

The cut runs in a process of its own: commands are forked from one in which nothing was trained.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.strangers import inputs
from benchmarks.strangers.ending import SECRET, Ended, fault
from benchmarks.strangers.folders import CASES

ROOT = Path(__file__).parents[2]
LINE = "holdfast: a: is wrong; mend it\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cut_of_what_strangers_break_is_told_well() -> None:
    cut = ["--inputs", str(len(inputs.KINDS)), "--corruptions", "1", "--kills", "1", "--folders",
           "3", "--seed", "7"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.strangers", *cut],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": none told badly; ") == 4


def test_there_are_many_kinds() -> None:
    assert len(CASES) >= 40
    assert len(inputs.KINDS) == 13


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (Ended(2, "", LINE), None),
        (Ended(0, "fine", ""), None),
        (Ended(-9, "", ""), "slow"),
        (Ended(2, "", LINE, 11.0), "slow"),
        (Ended(70, "", "Traceback\nValueError: x"), "traceback: ValueError: x"),
        (Ended(1, "", "holdfast: unforeseen: KeyError; x\n"),
         "traceback: holdfast: unforeseen: KeyError; x"),
        (Ended(9, "", LINE), "silent: exit code 9"),
        (Ended(2, "", "something: else\n"), "silent: no line"),
        (Ended(2, "", f"holdfast: {SECRET}: x; y\n"), "quoted: a prompt"),
        (Ended(2, "\x1b[2J", LINE), "quoted: raw characters"),
    ],
)  # fmt: skip
def test_each_way_of_telling_badly_is_seen(ended: Ended, told: str | None, tmp_path: Path) -> None:
    assert fault(ended, tmp_path) == told


@pytest.mark.parametrize("name", ["out.jsonl", "store/tmp-1-a", "a/b.part"])
def test_what_is_left_behind_is_seen(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    assert str(fault(Ended(2, "", LINE), tmp_path)).startswith("left behind: ")
