"""docs/adding-a-defence.md, executed: the defence it shows is found, shown, run and reported."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-defence.md"


def block(name: str) -> str:
    """Give the code block that follows the comment `<!-- name -->`."""
    found = re.search(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, name
    return found.group(1)


def holdfast(source: Path, cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [source, cwd]))},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def outside(tmp: Path, root: Path) -> Path:
    """Install the page's file as a package of its own, with the page's entry point."""
    package = tmp / "mypackage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tether.py").write_text(block("tether.py"))
    about = tmp / "mypackage-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[holdfast.defences]\ntether = mypackage.tether:Tether\n"
    )
    assert 'tether = "mypackage.tether:Tether"' in PAGE.read_text()
    return root / "src"


def inside(tmp: Path, root: Path) -> Path:
    """Save the page's file among the package's own defences, in a copy of the package."""
    copy = tmp / "src" / "holdfast"
    shutil.copytree(
        root / "src" / "holdfast", copy, ignore=shutil.ignore_patterns("__pycache__", "weights")
    )
    weights = "holdfast/testbeds/guild/weights"
    (copy.parent / weights).symlink_to(root / "src" / weights)
    (copy / "defences" / "tether.py").write_text(block("tether.py"))
    return tmp / "src"


@pytest.mark.parametrize("place", [outside, inside])
def test_a_defence_in_one_file_is_listed_shown_run_and_reported(
    place: object, tmp_path: Path, root: Path
) -> None:
    source = place(tmp_path, root)  # type: ignore[operator]
    assert "tether" in holdfast(source, tmp_path, "ls")
    shown = holdfast(source, tmp_path, "show", "tether")
    assert "spring" in shown
    assert "Strength of the pull" in shown
    (tmp_path / "study.yaml").write_text(block("study.yaml"))
    holdfast(source, tmp_path, "run", "study.yaml", "--workers", "1")
    with (tmp_path / "runs" / "tether" / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["lineup"] for row in rows} == {"none", "tether"}
    assert "tether" in (tmp_path / "runs" / "tether" / "report.html").read_text()
