"""What published data sets have in common: files found, held against what was published, told."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from holdfast.api.registry import find as find_method
from holdfast.api.registry import make, names
from holdfast.data.example import Side
from holdfast.data.folder import find
from holdfast.data.hub import Split
from holdfast.data.pool import Pool, side_of
from holdfast.data.published import Published, training_side
from holdfast.data.sources.gsm8k import GSM8K
from holdfast.data.sources.wildguardmix import WildGuardMix
from holdfast.data.sources.xstest import XSTest
from holdfast.errors import ConfigError, DataError

FILES = Path(__file__).parent / "published"
SPLITS = (Split("train", 3, config="main"), Split("test", 1, files=("deep/a.csv", "deep/b.csv")))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("split", "there", "found"),
    [
        (1, ["deep/a.csv", "deep/b.csv", "train.csv"], ["deep/a.csv", "deep/b.csv"]),
        (1, ["a.csv", "b.csv"], ["a.csv", "b.csv"]),
        (1, ["other.csv", "test.parquet"], ["test.parquet"]),
        (0, ["main/train-00000-of-00002.parquet", "main/train-00001-of-00002.parquet"], [0, 1]),
        (0, ["data/train-00000-of-00001.parquet", "train.md"], [0]),
        (0, ["train.JSONL"], [0]),
    ],
)
def test_a_split_is_found_under_its_published_and_under_plain_names(
    split: int, there: list[str], found: list[Any], tmp_path: Path
) -> None:
    touch(tmp_path, *there)
    expected = [there[one] if isinstance(one, int) else one for one in found]
    paths = find(tmp_path, SPLITS[split], SPLITS, "source 'set'")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == expected


def test_the_only_file_is_the_only_split(tmp_path: Path) -> None:
    touch(tmp_path, "whatever.csv", "README.md")
    assert find(tmp_path, SPLITS[0], SPLITS[:1], "source 'set'") == (tmp_path / "whatever.csv",)
    with pytest.raises(DataError, match="no file is split 'train'"):
        find(tmp_path, SPLITS[0], SPLITS, "source 'set'")


@pytest.mark.parametrize(
    ("there", "what"),
    [
        ([], "no file is split 'test'"),
        (["test.csv", "test.json"], "2 files could be split 'test'"),
        (["deep/a.csv", "deep/b.csv", "test.csv"], "2 files could be split 'test'"),
        (["deep/a.csv", "deep/b.csv", "a.csv", "b.csv"], "2 files could be split 'test'"),
        (["test-00000-of-00001.parquet", "test.csv"], "2 files could be split 'test'"),
        (
            ["test-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"],
            "2 files could be split 'test'",
        ),
    ],
)
def test_a_folder_without_a_split_or_with_two_of_it_is_refused(
    there: list[str], what: str, tmp_path: Path
) -> None:
    touch(tmp_path, *there)
    with pytest.raises(DataError) as error:
        find(tmp_path, SPLITS[1], SPLITS, "source 'set'")
    assert str(error.value) == (
        f"source 'set': folder {tmp_path}: {what}; name one test.parquet (or another of .jsonl, "
        ".ndjson, .json, .csv, .tsv) or deep/a.csv and deep/b.csv"
    )


@pytest.mark.parametrize(
    ("there", "what"),
    [
        (
            ["test-00000-of-00002.parquet"],
            "1 of 2 files, without test-00001-of-00002.parquet; add what is missing",
        ),
        (
            ["data/test-00002-of-00004.parquet"],
            "1 of 4 files, without test-00000-of-00004.parquet and 2 more; add what is missing",
        ),
        (
            ["test-00000-of-00001.parquet", "test-00000-of-00002.parquet"],
            "test-* is of 00001 and of 00002 files; keep the files of one download",
        ),
        (["a.csv", "test.parquet"], "1 of 2 files, without b.csv; add what is missing"),
        (["deep/b.csv"], "1 of 2 files, without a.csv; add what is missing"),
    ],
)
def test_a_part_of_a_split_is_not_taken_for_the_whole(
    there: list[str], what: str, tmp_path: Path
) -> None:
    touch(tmp_path, *there)
    with pytest.raises(DataError) as error:
        find(tmp_path, SPLITS[1], SPLITS, "source 'set'")
    assert str(error.value) == f"source 'set': folder {tmp_path}: {what}"


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        GSM8K(folder=str(tmp_path / "gone")).examples()
    said = f"source 'gsm8k': folder {tmp_path / 'gone'}: no such folder; check the path"
    assert str(error.value) == said


def test_another_number_of_rows_than_published_is_refused_and_can_be_accepted() -> None:
    folder = str(FILES / "gsm8k")
    with pytest.raises(DataError) as error:
        GSM8K(folder=folder).examples()
    assert str(error.value) == (
        f"{folder}/train.jsonl: 3 rows, split 'train' was published with 7473; take the file that "
        "was published, or accept this one with `rows: any`"
    )
    assert len(GSM8K(folder=folder, rows="any").examples()) == 3


def test_a_row_that_is_not_as_published_is_told_by_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "xstest_prompts.csv"
    path.write_text("id,prompt,type\n1,placeholder prompt 1,homonyms\n2,placeholder prompt 2,odd\n")
    with pytest.raises(DataError) as error:
        XSTest(folder=str(tmp_path)).examples()
    said = str(error.value)
    assert said.startswith(f"{path}:3: column 'type' is none of homonyms, ")
    assert said.endswith(
        "; see that it is the file published at https://github.com/paul-rottger/xstest"
    )
    assert "placeholder" not in said


def test_rows_are_the_same_from_every_kind_of_file(tmp_path: Path) -> None:
    expected = WildGuardMix(folder=str(FILES / "wildguardmix"), rows="any")
    for split in ("train", "test"):
        lines = (FILES / "wildguardmix" / f"{split}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"wildguard_{split}.parquet")
    found = WildGuardMix(folder=str(tmp_path), rows="any")
    assert found.examples() == expected.examples()
    assert found.content() == expected.content()


def test_content_follows_the_rows_and_not_the_folder(tmp_path: Path) -> None:
    copy = shutil.copytree(FILES / "wildguardmix", tmp_path / "copy")
    first = WildGuardMix(folder=str(FILES / "wildguardmix"), rows="any")
    second = WildGuardMix(folder=str(copy), rows="any")
    assert (first.content(), first.identity()) == (second.content(), second.identity())
    path = copy / "train.jsonl"
    text = path.read_text()
    # Same size, same time: what `datasets` would take for the same file.
    before = path.stat()
    path.write_text(text.replace('placeholder answer 1"', 'placeholder answer X"', 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert WildGuardMix(folder=str(copy), rows="any").content() != first.content()


def test_a_category_is_part_of_the_content(tmp_path: Path) -> None:
    copy = shutil.copytree(FILES / "wildguardmix", tmp_path / "copy")
    first = WildGuardMix(folder=str(copy), rows="any").content()
    path = copy / "train.jsonl"
    path.write_text(path.read_text().replace('"cyberattack"', '"sexual_content"'))
    assert WildGuardMix(folder=str(copy), rows="any").content() != first


def test_what_is_hashed_is_what_is_used(tmp_path: Path) -> None:
    copy = shutil.copytree(FILES / "gsm8k", tmp_path / "copy")
    source = GSM8K(folder=str(copy), rows="any")
    hashed = source.content()
    shutil.rmtree(copy)
    assert source.examples()
    assert source.content() == hashed


def test_where_rows_came_from_is_told() -> None:
    told = WildGuardMix(folder=str(FILES / "wildguardmix"), rows="any").origin()
    assert told == (
        "downloaded files: 8 rows from 20 published (dropped: 6 without an answer that fits a "
        "role, 2 without a label, 1 of a prompt that came before, 1 of a prompt that the "
        "evaluator asks, 1 of a prompt that came before with the opposite label, 1 without text)"
    )


def test_a_publishers_test_split_is_the_evaluators_and_the_rest_is_shared_out() -> None:
    groups = [f"group {i}" for i in range(2000)]
    sides = [training_side(group) for group in groups]
    assert Side.EVALUATOR not in sides
    kept = [(a, b) for g, a in zip(groups, sides, strict=True) if (b := side_of(g)) != "evaluator"]
    assert all(a is b for a, b in kept)
    assert sides.count(Side.DEFENDER) / len(sides) == pytest.approx(0.40 / 0.75, abs=0.03)
    rows = GSM8K(folder=str(FILES / "gsm8k"), rows="any").examples()
    assert [row.side for row in rows].count(Side.EVALUATOR) == 1
    assert None not in [row.side for row in rows]
    assert not Pool(rows).dropped


def test_nothing_left_is_an_error_that_says_what_was_dropped(tmp_path: Path) -> None:
    (tmp_path / "xstest_prompts.csv").write_text('prompt,type\n"",homonyms\nplaceholder,\n')
    with pytest.raises(DataError) as error:
        XSTest(folder=str(tmp_path), rows="any").examples()
    assert str(error.value) == (
        "source 'xstest': no rows left of 2 (1 without text, 1 without a label); "
        "choose other fields of the source"
    )


@pytest.mark.parametrize(
    ("name", "fields", "line"),
    [
        (
            "harmbench",
            {},
            "study.sources[0].harmbench.subset: HarmBench is three sets, and none is named; "
            "write one of standard, contextual, copyright",
        ),
        (
            "wildguardmix",
            {"categories": ["cyberattacks"]},
            "study.sources[0].wildguardmix.categories: no category 'cyberattacks'; "
            "did you mean 'cyberattack'?",
        ),
        (
            "beavertails",
            {"refusal": " "},
            "study.sources[0].beavertails.refusal: is empty; write what a refusal says",
        ),
        (
            "gsm8k",
            {"revision": "main"},
            "study.sources[0].gsm8k.revision: got 'main'; "
            "it should be text of the form ^([0-9a-f]{40}|newest)$",
        ),
    ],
)
def test_a_field_that_cannot_be_is_one_line(
    name: str, fields: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError) as error:
        make("source", {name: fields}, "study.sources[0]")
    assert str(error.value) == line


def test_every_published_set_says_where_it_lies_and_under_which_licence() -> None:
    every = [find_method("source", name) for name in names("source")]
    kinds = [kind for kind in every if issubclass(kind, Published)]
    assert len(kinds) == 17
    gated = {kind.name() for kind in kinds if kind.place.gated}
    assert gated == {"wildguardmix", "hex_phi"}
    assert {kind.name() for kind in kinds if kind.commit is None} == {"hex_phi"}
    for kind in kinds:
        assert kind.licence
        assert kind.size
        assert kind.place.repo.count("/") == 1
        assert kind.commit is None or len(kind.commit) == 40
        splits = kind(subset="standard") if kind.name() == "harmbench" else kind()
        assert len({one.name for one in splits.splits()}) == len(splits.splits())
