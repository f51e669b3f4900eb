"""Seeds of one study that ran apart, put together: the same report as of one run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as parquet
import pytest

from holdfast.cli import run

TABLES = ("outcomes.parquet", "lineups.parquet", "rows.csv")


@pytest.fixture
def study(toy: ModuleType, toy_model: Path, installed: Path, tmp_path: Path) -> Path:
    """Give the file of the toy study with two seeds."""
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(toy.study(toy_model, seeds=[3, 5])))
    return path


@pytest.fixture
def parts(study: Path, tmp_path: Path) -> list[Path]:
    """Give the report folders of both seeds, each run in a store of its own."""
    found = [tmp_path / f"part-{seed}" for seed in (3, 5)]
    for seed, out in zip((3, 5), found, strict=True):
        store = tmp_path / f"store-{seed}"
        words = ["--store", str(store), "--out", str(out), "--workers", "1"]
        assert run(["run", str(study), "--seeds", str(seed), *words]) == 0
        assert json.loads((out / "meta.json").read_text())["seeds"] == [seed]
    return found


def verdict(folder: Path, out: Path) -> dict[str, Any]:
    assert run(["report", str(folder), "--out", str(out)]) == 0
    return json.loads((out / "verdict.json").read_text())


def test_parts_give_the_report_of_one_run(
    study: Path, parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, whole = tmp_path / "store", tmp_path / "whole"
    words = ["--store", str(store), "--out", str(whole), "--workers", "1"]
    assert run(["run", str(study), *words]) == 0
    both = tmp_path / "both"
    capsys.readouterr()
    assert run(["join", *map(str, parts), "--out", str(both)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"2 seeds of toy: {both}",
        f"next: holdfast report {both}",
    ]
    assert json.loads((both / "meta.json").read_text())["seeds"] == [3, 5]
    for name in ("outcomes", "lineups"):
        mine, theirs = (
            sorted(parquet.read_table(at / f"{name}.parquet").to_pylist(), key=json.dumps)
            for at in (both, whole)
        )
        assert mine == theirs
    mine, theirs = verdict(both, tmp_path / "a"), verdict(whole, tmp_path / "b")
    assert mine.keys() == theirs.keys()
    own = {"provenance", "leakage"}
    assert {k: v for k, v in mine.items() if k not in own} == {
        k: v for k, v in theirs.items() if k not in own
    }


def other(folder: Path, name: str, **meta: Any) -> Path:
    """Give a copy of a part that says something else of itself."""
    made = folder.with_name(name)
    shutil.copytree(folder, made)
    said = json.loads((made / "meta.json").read_text())
    (made / "meta.json").write_text(json.dumps(said | meta))
    (made / "study.json").unlink()  # it has the hash of what the run wrote
    return made


def test_what_cannot_be_joined_is_one_line(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = map(str, parts)
    twice = str(other(parts[0], "twice"))
    judged = str(other(parts[1], "judged", thresholds=[0.5]))
    moved = str(other(parts[1], "moved", seeds=[9]))
    todo = "join what one study file made, each part with other --seeds"
    file = str(other(parts[1], "file", study="0123456789abcdef"))
    before = other(parts[1], "before", study=None)
    table = parquet.read_table(before / "outcomes.parquet")
    parquet.write_table(table.filter(pc.equal(table["budget"], 0.0)), before / "outcomes.parquet")
    out = tmp_path / "out"
    for folders, said in (
        ([first, first], f"{first}: is named twice; name each part once"),
        (
            [first, f"{first}/meta.json"],
            f"{first}/meta.json: no such folder; name folders that `run` wrote",
        ),
        (
            [first, moved],
            f"{moved}: its rows are of seed 5, and meta.json says another; keep the tables of one "
            "run together",
        ),
        ([first], "join: one part is nothing to join; name two folders or more"),
        ([first, twice], f"{twice}: holds seed 3, as {first} does; leave one of the two out"),
        (
            [first, judged],
            f"{judged}: is of another study than {first}: 'thresholds' differs; {todo}",
        ),
        (
            [first, file],
            f"{file}: is of another study than {first}: study file, models or rows differ; {todo}",
        ),
        ([first, str(before)], f"{before}: is of another study than {first}: only one of them "),
    ):
        capsys.readouterr()
        assert run(["join", *folders, "--out", str(out)]) == 2
        shown = capsys.readouterr().err.strip()
        assert shown.startswith(f"holdfast: {said}")
        assert shown.endswith(said) or (said.endswith("them ") and shown.endswith(todo))
        assert not out.exists()
    assert run(["join", first, second, "--out", first]) == 2
    assert "exists; name a folder that does not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        ("3,four", "--seeds: '3,four' is no list of seeds; write it as 0,1,2"),
        ("3,3", "--seeds: '3,3' names a seed twice; name each once"),
        ("3,4", "--seeds: the study has no seed 4; its seeds: 3, 5"),
        ("", "--seeds: '' is no list of seeds; write it as 0,1,2"),
    ],
)
def test_seeds_that_the_study_has_not_are_one_line(
    study: Path, tmp_path: Path, seeds: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "none"
    assert run(["run", str(study), "--seeds", seeds, "--store", str(store)]) == 2
    assert capsys.readouterr().err.strip() == f"holdfast: {said}"
    assert not store.exists()
