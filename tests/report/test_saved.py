"""A report made from tables alone: the same page, one line for what is missing, old tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from tests import planted
from tests.planted import lineup_rows
from tests.report.test_inside import tables

from holdfast.cli import run
from holdfast.disk import file_hash
from holdfast.report import inside
from holdfast.report.html import render
from holdfast.report.saved import Saved
from holdfast.report.table_files import write_table
from holdfast.stats.rows import LINEUP_COLUMNS, OUTCOME_COLUMNS

ROOT = Path(__file__).parents[2]
META = planted.META | {"name": "foundation"}
TODO = "give the folder that a finished `holdfast run` wrote its report to"


@pytest.fixture
def kept(tmp_path: Path, make_study: Callable) -> Path:
    """Give a folder with everything a study with an analysis writes, but the page."""
    folder = tmp_path / "kept"
    folder.mkdir()
    rows, points = tables()
    for name, table, columns in (
        ("outcomes", make_study(seeds=1, entities=4), OUTCOME_COLUMNS),
        ("lineups", lineup_rows(1), LINEUP_COLUMNS),
        ("analysis", rows, inside.COLUMNS),
        ("scatter", points, inside.SCATTER_COLUMNS),
    ):
        write_table(table, columns, folder / name, text=False)
    (folder / "meta.json").write_text(json.dumps(META))
    return folder


def test_the_page_is_the_one_the_study_made(kept: Path, tmp_path: Path, make_study) -> None:
    rows, points = tables()
    first = render(
        make_study(seeds=1, entities=4), lineup_rows(1), META, analysis=rows, scatter=points
    )
    assert run(["report", str(kept), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "report.html").read_text() == first
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == [
        "cards", "costs.csv", "costs.parquet", "free.csv", "free.parquet", "report.html",
        "verdict.json",
    ]  # fmt: skip
    cards = sorted(path.name for path in (tmp_path / "again" / "cards").iterdir())
    assert cards == ["instruct", "none", "refusal_sft", "sgt"]


def test_it_stands_under_the_studys_name_in_the_store(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "runs" / META["name"] / "report.html"
    assert run(["report", str(kept), "--store", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"report: {page}\nWithout any training, ")  # the answer follows
    assert page.is_file()


def test_a_run_of_the_same_name_is_not_written_over(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "runs" / META["name"]
    own.mkdir(parents=True)
    (own / "study.json").write_text("{}")
    assert run(["report", str(kept), "--store", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err == (
        f"holdfast: {kept}: {own} holds a run of the study of that name; name another folder with "
        "--out\n"
    )
    assert [path.name for path in own.iterdir()] == ["study.json"]


def test_a_study_without_an_analysis_has_none(kept: Path) -> None:
    (kept / "analysis.parquet").unlink()
    (kept / "scatter.parquet").unlink()
    assert Saved.read(kept).tables().keys() == {"outcomes", "lineups", "meta"}


def test_tables_from_before_purposes_give_the_same_page(kept: Path, tmp_path: Path) -> None:
    assert run(["report", str(kept), "--out", str(tmp_path / "now")]) == 0
    path = kept / "outcomes.parquet"
    parquet.write_table(parquet.read_table(path).drop_columns(["purpose"]), path)
    before = {name: said for name, said in META.items() if name not in ("headline", "sets")}
    (kept / "meta.json").write_text(json.dumps(before))
    assert run(["report", str(kept), "--out", str(tmp_path / "then")]) == 0
    pages = [(tmp_path / when / "report.html").read_bytes() for when in ("now", "then")]
    assert pages[0] == pages[1]


def test_a_table_that_was_changed_after_the_run_is_refused(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {path.name: file_hash(path) for path in kept.iterdir()}
    (kept / "study.json").write_text(json.dumps({"files": files}))
    assert run(["report", str(kept), "--out", str(tmp_path / "one")]) == 0
    capsys.readouterr()
    for name in ("outcomes.parquet", "meta.json"):
        (kept / "study.json").write_text(json.dumps({"files": files | {name: "0" * 64}}))
        assert run(["report", str(kept), "--out", str(tmp_path / "two")]) == 2
        assert capsys.readouterr().err == (
            f"holdfast: {kept / name}: was changed after the run wrote it (its hash is in "
            "study.json); run the study again, which writes it anew, or delete study.json if the "
            "change is yours\n"
        )
    assert not (tmp_path / "two").exists()


def test_an_unknown_headline_leaves_no_folder(kept: Path, tmp_path: Path) -> None:
    (kept / "meta.json").write_text(json.dumps(META | {"headline": "nowhere"}))
    assert run(["report", str(kept), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_several_harm_sets_and_no_headline_are_refused(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kept / "meta.json").write_text(json.dumps({k: v for k, v in META.items() if k != "headline"}))
    assert run(["report", str(kept), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "holdfast: outcomes table: it has 2 sets of purpose 'harm' (restricted, name_only) and no "
        "headline; say which decides: `headline` in meta.json\n"
    )


def test_tables_from_before_the_sign_of_action_still_make_a_report(
    kept: Path, tmp_path: Path
) -> None:
    path = kept / "lineups.parquet"
    table = parquet.read_table(path)
    late = ["signal", "moves", "measured", "beside", "undecided", "inert"]
    parquet.write_table(table.drop_columns(late), path)
    assert run(["report", str(kept), "--out", str(tmp_path / "again")]) == 0


def test_a_line_ups_name_that_leads_out_of_the_folder_is_refused(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line-up has a folder for its card, and tables may come from anywhere."""
    table = parquet.read_table(kept / "lineups.parquet").to_pylist()
    table[0]["lineup"] = "../../out"
    write_table(table, LINEUP_COLUMNS, kept / "lineups", text=False)
    assert run(["report", str(kept), "--out", str(tmp_path / "a" / "b" / "c")]) == 2
    assert capsys.readouterr().err == (
        f"holdfast: {kept}: '../../out' is no name of a line-up; write it again with 'holdfast "
        "run'\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]


def test_what_is_missing_or_broken_is_one_line_and_nothing_is_written(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        assert run(["report", str(kept), "--out", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err.removeprefix("holdfast: ").rstrip("\n")

    meta = (kept / "meta.json").read_text()
    again = "missing or not what a study writes; write it again with 'holdfast run'"
    for said, wrong in (
        ('{"name": "x", "seeds": [0]}', "judges"),
        ('{"name": "../x", "seeds": [0], "judges": ["a"]}', "name"),
        ('{"name": 5, "seeds": "a", "judges": []}', "name, seeds, judges"),
        ("[]", "name, seeds, judges"),
        ('{"name": "x", "seeds": [0], "judges": ["a"], "thresholds": [1.5]}', "thresholds"),
        ('{"name": "x", "seeds": [0], "judges": ["a"], "least_use": "0.9"}', "thresholds"),
        ('{"name": "x", "seeds": [0], "judges": ["a"], "holes": [{"lineup": "../x"}]}', "holes"),
        ('{"name": "x", "seeds": [0], "judges": ["a"], "leakage": {"pairs": [1]}}', "leakage"),
        ('{"name": "x", "seeds": [0], "judges": ["a"], "categories": [1]}', "categories"),
        ('{"name": "x", "seeds": [0], "judges": ["a"], "flags": 5}', "flags"),
        (
            '{"name": "x", "seeds": [0], "judges": ["a"], "headline": 1, "sets": []}',
            "headline, sets",
        ),
    ):
        (kept / "meta.json").write_text(said)
        assert told() == f"{kept / 'meta.json'}: {wrong}: {again}"
    (kept / "meta.json").write_text('{"name": "x", "seeds": [0], "judges": ["nobody"]}')
    assert told() == (
        f"{kept / 'meta.json'}: no outcome is of its first judge, 'nobody'; keep the tables of one "
        "study together"
    )
    (kept / "meta.json").write_text(meta[:20])
    assert told().startswith(f"{kept / 'meta.json'}: is no JSON file (")
    (kept / "meta.json").unlink()
    assert told() == f"{kept}: holds no meta.json; {TODO}"
    (kept / "meta.json").write_text(meta)
    table = parquet.read_table(kept / "outcomes.parquet")
    for name, values in (("budget", ["much"]), ("seed", [None])):
        column = pa.array(values * table.num_rows)
        wrong = table.set_column(table.column_names.index(name), name, column)
        parquet.write_table(wrong, kept / "outcomes.parquet")
        assert told() == (
            f"{kept / 'outcomes.parquet'}: column {name} holds no numbers, or not in every row; "
            "write it again with 'holdfast run'"
        )
    parquet.write_table(table, kept / "outcomes.parquet")
    table = parquet.read_table(kept / "lineups.parquet")
    parquet.write_table(table.drop_columns(["seed", "flops"]), kept / "lineups.parquet")
    assert told() == (
        f"{kept / 'lineups.parquet'}: no column seed, flops; write it again with 'holdfast run'"
    )
    (kept / "outcomes.parquet").write_bytes(b"PAR1 and no more")
    assert told() == (
        f"{kept / 'outcomes.parquet'}: is no Parquet file, or not a whole one; {TODO}"
    )
    assert run(["report", str(kept / "outcomes.parquet")]) == 2
    assert capsys.readouterr().err == (
        f"holdfast: {kept / 'outcomes.parquet'}: is a table; give its folder, {kept}\n"
    )
    (kept / "outcomes.parquet").unlink()
    assert told() == f"{kept}: holds no outcomes.parquet; {TODO}"


@pytest.mark.parametrize("name", ["data_efficiency", "cross_domain"])
def test_tables_from_before_sides_were_compared_in_full_give_their_report(
    name: str, tmp_path: Path
) -> None:
    folder = ROOT / "studies" / "world" / "rows" / name
    assert run(["report", str(folder), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").is_file()
