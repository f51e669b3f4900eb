"""A clone in which README's commands were run is still clean, and still passes lint.

`.ci/commands` runs the commands themselves; here is what they leave behind, in a path with spaces.
"""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from holdfast.cli import app
from holdfast.cli.verbs.demo import FOLDERS

MISSPELT = "teh recieved weigths are beeing seperated"
STRAY = {
    "report.html": f"<p>{MISSPELT}</p>\n",
    "MODEL_CARD.md": f"# {MISSPELT}\n",
    "rows.csv": f"outcome\n{MISSPELT}\n",
    "stray.py": f"import os\nx = '{MISSPELT}'  \n",
}
"""What fails lint if lint reads it."""
BARE = {"ruff check": ["check", "."], "ruff format": ["format", "--check", "."], "typos": []}
"""The checks that read files wherever they lie, as people call them."""


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def defaults(command: Any) -> Iterator[str]:
    """Give every path that a command of the command line writes to if nobody names another."""
    for inner in getattr(command, "commands", {}).values():
        yield from defaults(inner)
    for parameter in command.params:
        if isinstance(parameter.default, Path):
            yield parameter.default.as_posix()


def shown(root: Path) -> Iterator[str]:
    """Give every relative path that README.md and the pages of docs/ tell people to write to."""
    for page in [root / "README.md", *(root / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        yield from re.findall(r"--(?:out|store)[ =]([a-z][\w./-]*)", text)
        yield from re.findall(r"(?:save_pretrained\(|work=Path\()\"([\w./-]+)\"", text)


@pytest.fixture(scope="module")
def written(root: Path) -> list[str]:
    """Give every place in a clone that commands write to, with their unfinished neighbours."""
    places = {place.rstrip("/") for place in defaults(typer.main.get_command(app))}
    places |= {place.rstrip("/") for place in shown(root)}
    places |= {place.as_posix() for place in FOLDERS.values()}
    whole = [Path(place) for place in places]
    unfinished = {
        (place.parent / f".{place.name}{end}").as_posix()
        for place in whole
        for end in (".tmp-123", ".work")
    }
    return sorted(places | unfinished | {".world-123"})


@pytest.fixture(scope="module")
def clone(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a clone of the working tree as it is, committed, in a path with spaces."""
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("some place") / "a clone"
    names = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in names:
        if name and (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "All")
    return folder


def leave(place: Path) -> None:
    """Leave in a place what no check would pass."""
    if place.suffix == ".jsonl":
        place.write_text(MISSPELT, encoding="utf-8")
        return
    for folder in (place, place / "store"):
        folder.mkdir(parents=True)
        for name, text in STRAY.items():
            (folder / name).write_text(text, encoding="utf-8")


def test_the_commands_write_where_this_test_looks(written: list[str]) -> None:
    assert {"holdfast-demo", "runs", "world", "hardened", "broken", "answers.jsonl"} <= {*written}


def test_what_the_commands_leave_is_ignored_by_git_and_read_by_no_check(
    clone: Path, written: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    for place in written:
        leave(clone / place)
    (clone / ".venv.lock").touch()
    dev = runpy.run_path(str(clone / "dev.py"))
    steps = dev["lint_steps"](Path(sys.executable))
    bare = {name: [steps[name][0], *words] for name, words in BARE.items()}
    assert dev["run_steps"](steps | {f"bare {name}": bare[name] for name in bare}) == 0, (
        capfd.readouterr().out
    )
    project = tomllib.loads((clone / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["pytest"]["ini_options"]["testpaths"] == ["tests"]
    assert git(clone, "status", "--porcelain") == ""

    leave(clone / "a report of mine")  # under a name that no list can know
    reading = {name: steps[name] for name in BARE}
    assert dev["run_steps"](reading) == 0, capfd.readouterr().out
    assert git(clone, "status", "--porcelain") == '?? "a report of mine/"\n'
    assert dev["run_steps"](bare) == 1  # what was left does fail where it is read


def test_lint_reads_everything_that_the_repository_keeps(clone: Path) -> None:
    kept = {name.split("/")[0] for name in git(clone, "ls-files", "-z").split("\0") if name}
    read = set(runpy.run_path(str(clone / "dev.py"))["TEXT"])
    assert kept - read == {".gitignore", "LICENSE"}
    assert read <= kept
