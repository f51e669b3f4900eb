"""The verdict as data: its documented keys and no others, finite numbers, tables, reading back."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from tests.honesty.world import META, UNDEFENDED, Planted, lineup_rows, read, table

from holdfast.errors import DataError
from holdfast.report import verdict
from holdfast.report.costs import COST_COLUMNS, FREE_COLUMNS
from holdfast.report.files import write_findings

RATE = "verdict.lineups.LINEUP.released.SET"
"""Where the page documents a rate."""
OPEN = {
    "lineups": "LINEUP", "released": "SET", "free": "ACCESS", "paid": "ACCESS",
    "attacks": "ATTACK", "choices": "SEED",
}  # fmt: skip
"""Keys whose own keys are names."""
LINEUPS = {
    "none": UNDEFENDED,
    "sound": Planted(cost=8, free={"abliterate": (0.0, 1.0), "strip": (0.9, 1.0)}),
    "lasting": Planted(free={"abliterate": (0.6, 1.0)}),
    "junk": Planted(utility=0.0, degenerate=1.0, wrecked=True),
    "fixed": Planted(cost=4, defences="none", checkpoints=1),
}
HOLE = {"what": "strip, seed 0", "lineup": "lasting", "attack": "strip", "seed": 0,
        "why": "out of memory", "paid": False, "free": True}  # fmt: skip


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """Give the verdict of a study in which everything occurs."""
    meta = {"holes": [HOLE], "thresholds": [0.2, 0.5], "attacks": {"strip": {"original_at": [1.0]}}}
    return read(
        LINEUPS, undefended=False, free=("abliterate", "strip"), meta=meta, finish="length"
    ).verdict


def documented(root: Path) -> dict[str, set[str]]:
    """Give the keys of every table under a heading that names a place, by that place."""
    found: dict[str, set[str]] = {}
    place = ""
    for line in (root / "docs" / "verdict.md").read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"#+ (.*)", line):
            name = re.fullmatch(r"`(verdict.*)`", heading[1])
            place = name[1] if name else ""
        elif place and (row := re.match(r"\| (`[^|]*`) \|", line)):
            found.setdefault(place, set()).update(re.findall(r"`(\w+)`", row[1]))
    return found


def places(data: Any, place: str = "verdict", key: str = "") -> Iterator[tuple[str, set[str]]]:
    """Give every place of a verdict where keys are fixed, with the keys there."""
    if isinstance(data, list):
        for one in data:
            yield from places(one, f"{place}[]")
    elif isinstance(data, dict):
        names = OPEN.get(key) or ("SEED" if key == "seeds" else "")
        if set(data) == {"value", "low", "high", "n", "clusters"}:
            yield RATE, set(data)
            return
        if not names:
            yield place, set(data)
        for name, value in data.items():
            inner = f"{place}.{names or name}"
            yield from places(value, inner, "" if names else name)


def test_every_documented_key_is_there_and_no_other(root: Path, told: dict[str, Any]) -> None:
    known = documented(root)
    seen: dict[str, set[str]] = {}
    for place, keys in places(told):
        assert seen.setdefault(place, keys) == keys, place  # the same at every name
    inner = {  # what stands at a place of its own in the page
        place: {other.removeprefix(f"{place}.").split(".")[0].removesuffix("[]")
                for other in known if other.startswith(f"{place}.")}
        for place in known
    }  # fmt: skip
    assert set(seen) == set(known)
    for place, keys in seen.items():
        nested = inner[place] if place != RATE else set()
        assert keys - nested == known[place] - nested, place
        assert nested <= keys, place


def test_the_page_names_the_version_and_the_columns(root: Path) -> None:
    page = (root / "docs" / "verdict.md").read_text(encoding="utf-8")
    assert f"`version` is {verdict.VERSION}." in page
    assert f"`schema` is `{verdict.SCHEMA}`" in page
    keys = documented(root)["verdict.lineups.LINEUP.paid.ACCESS.seeds.SEED"]
    assert set(COST_COLUMNS) == keys | {"lineup", "access", "threshold", "seed"}
    text = page.partition("## `costs.csv`")[2].partition("## The gate")[0]
    for name in set(FREE_COLUMNS) - {"lineup"}:
        assert f"`{name}`" in text, name


def test_every_number_is_finite_json(told: dict[str, Any]) -> None:
    text = json.dumps(told, allow_nan=False)
    assert json.loads(text) == told

    def numbers(data: Any) -> Iterator[float]:
        for one in data.values() if isinstance(data, dict) else data:
            if isinstance(one, dict | list):
                yield from numbers(one)
            elif isinstance(one, float):
                yield one

    assert all(math.isfinite(number) for number in numbers(told))
    lasting = told["lineups"]["lasting"]["paid"]["weights"]
    assert (lasting["high"], lasting["low"], lasting["survived"]) == (None, 32, 8)
    assert lasting["seeds"]["0"]["ci_high"] is None


def test_what_is_said_of_each_line_up(told: dict[str, Any]) -> None:
    lines = told["lineups"]
    assert (told["complete"], told["holes"]) == (False, [HOLE])
    assert told["cut"]["share"] == 1
    assert lines["junk"]["use"]["status"] == "not usable"
    assert lines["junk"]["why_not"].startswith("not usable: ")
    assert lines["none"]["use"]["status"] == "reference"
    assert (lines["fixed"]["checkpoints"], lines["fixed"]["seeds_are"]) == (
        1, "attacker seeds, one checkpoint",
    )  # fmt: skip
    free = lines["sound"]["free"]["weights"]
    assert free["attacks"]["strip"]["returns_original"] is True
    assert free["attacks"]["strip"]["choices"]["0"] == {"choice": "", "budget": 1.0}
    assert lines["lasting"]["free"]["weights"]["not_run"] == ["strip"]
    assert lines["junk"]["free"]["weights"]["broken"] is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with everything that is written of the same study."""
    path = tmp_path_factory.mktemp("written")
    given = {
        "outcomes": table(LINEUPS, free=("abliterate", "strip"), seeds=range(2), clusters=8),
        "lineups": lineup_rows(LINEUPS, range(2)),
        "meta": META | {"thresholds": [0.2, 0.5]},
    }
    write_findings(given, path)
    return path


def test_the_files_hold_the_same_figures(folder: Path) -> None:
    told = verdict.read(folder)
    for name, columns in (("costs", COST_COLUMNS), ("free", FREE_COLUMNS)):
        rows = parquet.read_table(folder / f"{name}.parquet").to_pylist()
        assert list(rows[0]) == list(columns)
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        assert list(lines[0]) == list(columns)
        assert len(lines) == len(rows)
        assert not {"nan", "inf", "-inf"} & {value for line in lines for value in line.values()}
    costs = parquet.read_table(folder / "costs.parquet").to_pylist()
    assert len(costs) == len(LINEUPS) * 2 * 2  # thresholds, seeds
    for row in costs:
        if row["threshold"] == 0.2:
            paid = told["lineups"][row["lineup"]]["paid"][row["access"]]
            seed = paid["seeds"][str(row["seed"])]
            assert seed == {key: row[key] for key in seed}
    for row in parquet.read_table(folder / "free.parquet").to_pylist():
        free = told["lineups"][row["lineup"]]["free"][row["access"]]["attacks"][row["attack"]]
        choice = free["choices"][str(row["seed"])]
        assert choice == {"choice": row["choice"], "budget": row["budget"]}
        assert free["unit"] == row["unit"]


def test_the_same_study_gives_the_same_bytes_and_a_card_for_each_line_up(
    folder: Path, tmp_path: Path
) -> None:
    given = {
        "outcomes": table(LINEUPS, free=("abliterate", "strip"), seeds=range(2), clusters=8),
        "lineups": lineup_rows(LINEUPS, range(2)),
        "meta": META | {"thresholds": [0.2, 0.5]},
    }
    write_findings(given, tmp_path)
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)
    cards = [str(name) for name in names if name.name == "MODEL_CARD.md"]
    assert cards == [f"cards/{name}/MODEL_CARD.md" for name in sorted(LINEUPS)]


def test_what_cannot_be_read_is_one_line(folder: Path, tmp_path: Path) -> None:
    todo = "give the folder that `holdfast run` or `holdfast report` wrote"

    def said(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            verdict.read(path)
        return str(caught.value)

    assert said(tmp_path) == f"{tmp_path}: holds no verdict.json; {todo}"
    assert said(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: holds no verdict.json; {todo}"
    path = tmp_path / "verdict.json"
    whole = (folder / "verdict.json").read_text(encoding="utf-8")
    path.write_text(whole[:100], encoding="utf-8")
    assert said(tmp_path).startswith(f"{path}: cannot be read (")
    path.write_bytes(b"\xff\xfe")
    assert said(tmp_path).startswith(f"{path}: cannot be read (")
    for text in ("[]", "{}", '{"schema": "other", "version": 1}', "3"):
        path.write_text(text, encoding="utf-8")
        assert said(tmp_path) == f"{path}: is no holdfast-verdict; {todo}"
    path.write_text(json.dumps(json.loads(whole) | {"version": 2}), encoding="utf-8")
    assert said(tmp_path) == (
        f"{path}: is of schema version 2, this Holdfast reads 1; write it again with `holdfast "
        "report FOLDER`"
    )
    path.write_text('{"schema": "holdfast-verdict", "version": 1, "study": {}}', encoding="utf-8")
    assert said(tmp_path) == f"{path}: has no lineups; write it again"
    path.write_text(whole, encoding="utf-8")
    assert verdict.read(tmp_path) == verdict.read(path) == json.loads(whole)
