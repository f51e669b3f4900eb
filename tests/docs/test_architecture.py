"""The page on architecture: its rooms are the folders, its step of `sgt` is what really runs."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from holdfast.api import Loop
from holdfast.data.example import Side
from holdfast.defences.sgt import SGT
from holdfast.testing import tiny
from holdfast.train import harden

MOST = 10
STAND_IN = "src/holdfast/api/lazy.py"
"""What `torch` is in files that load without it; the page says to read it as torch."""


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/architecture.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def listed(page: str) -> list[str]:
    """Give the files of the step, in the page's order."""
    return re.findall(r"^\d+\. `([\w./]+)`: ", page, re.MULTILINE)


def test_the_rooms_are_the_folders_in_the_order_of_imports(page: str, root: Path) -> None:
    picture = page.partition("```text\n")[2].partition("```")[0]
    drawn = [line.split()[0] for line in picture.splitlines()]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    ordered = [name.strip() for layer in layers for name in layer.split("|")]
    assert drawn == [name for name in ordered if name != "__main__"]
    source = root / "src/holdfast"
    rooms = {path.parent.name for path in source.glob("*/__init__.py")}
    assert rooms | {"disk", "errors"} == set(drawn)


def test_a_step_of_sgt_opens_at_most_ten_files_and_all_exist(listed: list[str], root: Path) -> None:
    assert 0 < len(listed) <= MOST
    assert [name for name in listed if not (root / name).is_file()] == []
    assert "train.harden(" in (root / listed[0]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change", [{}, {"packing": False}, {"lora": {"rank": 2}}], ids=["packed", "padded", "lora"]
)
def test_they_are_the_files_that_run(change: dict[str, Any], listed: list[str], root: Path) -> None:
    """The third step runs functions of these files and of no other.

    No epoch begins in it, and its rows have been met before.
    """
    ran: set[str] = set()
    coder, pool = tiny.encoder(), tiny.pool(8)
    coder.batch([*pool.rows(Side.DEFENDER), *SGT().harmful(pool, 0, None)])

    def note(frame: FrameType, event: str, _argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and (root / "src/holdfast") in path.parents:
            ran.add(path.relative_to(root).as_posix())

    def progress(part: str, done: int, _of: int) -> None:
        sys.setprofile(note if (part, done) == ("sgt", 2) else None)

    loop = Loop.model_validate({"steps": 4, "batch": 2, **change})
    method = SGT(stage1=Loop(steps=1, batch=2), loop=loop, ending=None)
    try:
        harden(method, tiny.model(), coder, pool, seed=0, progress=progress)
    finally:
        sys.setprofile(None)
    assert sorted(ran - {STAND_IN}) == sorted(listed[1:])
