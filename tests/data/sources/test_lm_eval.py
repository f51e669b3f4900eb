"""The source `lm_eval`: a row a document, and one line for what cannot be asked."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarking import BOOKISH, SUMS, lines, sums, tasks

from holdfast.api import EvalPurpose, Scorer
from holdfast.data import benchmarks
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.sources.lm_eval import LmEval
from holdfast.errors import HoldfastError
from holdfast.testing import check_source


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tasks(tmp_path / "tasks")


def source(folder: Path, task: str, **fields: Any) -> LmEval:
    return LmEval(task=task, folder=str(folder), **fields)


def refused(made: LmEval) -> str:
    with pytest.raises(HoldfastError) as caught:
        Pool.of([made])
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_group_gives_a_row_a_document_by_task(folder: Path) -> None:
    rows = source(folder, "picks").examples()
    assert len(rows) == 12
    assert {row.category for row in rows} == {"picks_indoors", "picks_outdoors"}
    assert {row.side for row in rows} == {Side.EVALUATOR}
    assert {row.role for row in rows} == {Role.BENIGN}
    assert len({row.uid for row in rows}) == len({row.group for row in rows}) == 12
    (first, *_) = rows
    assert first.prompt.splitlines()[0] == "bread 0"
    assert first.evaluation_set == "picks"
    assert first.known.lm_eval["task"] == "picks_indoors"


def test_it_keeps_a_sources_contract(folder: Path) -> None:
    check_source(source(folder, "picks", shots=2))


def test_its_set_is_named_headed_and_counted_as_asked(folder: Path) -> None:
    (of,) = source(folder, "bookish", shots=5).sets()
    assert (of.name, of.purpose, of.scorer) == (
        "bookish_5_shot", EvalPurpose.LM_EVAL, Scorer.LM_EVAL
    )  # fmt: skip
    assert (of.label, of.metric) == ("bookish, 5-shot (acc)", "acc")
    (of,) = source(folder, "bookish", set="mine", metric="acc_norm").sets()
    assert (of.name, of.label, of.metric) == ("mine", "mine (acc_norm)", "acc_norm")
    (of,) = source(folder, "sums").sets()
    assert of.metric == "exact_match,strict-match"


def test_limit_takes_the_first_of_each_task(folder: Path) -> None:
    rows = source(folder, "picks", limit=2).examples()
    assert sorted((row.category, row.known.lm_eval["place"]) for row in rows) == [
        ("picks_indoors", 0), ("picks_indoors", 1),
        ("picks_outdoors", 0), ("picks_outdoors", 1),
    ]  # fmt: skip


def test_equal_documents_are_rows_of_their_own(folder: Path) -> None:
    lines(folder / "sums_test.jsonl", sums(1) * 3)
    pool = Pool.of([source(folder, "sums")])
    assert len(pool.evaluation("sums", Side.EVALUATOR, None, 0)) == 3


def asked(made: LmEval) -> list[str]:
    return [row.known.lm_eval["asked"] for row in made.examples()]


def test_what_a_score_hangs_on_changes_what_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, shown = asked(source(folder, "sums")), asked(source(folder, "sums", shots=2))
    assert set(before).isdisjoint(shown)
    lines(folder / "sums_train.jsonl", sums(12, 80))
    assert asked(source(folder, "sums")) == before  # no example is shown
    assert asked(source(folder, "sums", shots=2)) != shown
    text = folder / "sums.yaml"
    text.write_text(text.read_text().replace("ignore_case: true", "ignore_case: false"))
    assert set(asked(source(folder, "sums"))).isdisjoint(before)


def test_new_bytes_of_the_same_size_and_time_are_new_rows(folder: Path) -> None:
    """`datasets` knows a file by its size and time alone."""
    import os

    file = folder / "sums_test.jsonl"
    before = [row.prompt for row in source(folder, "sums").examples()]
    when = file.stat().st_mtime_ns
    file.write_text(file.read_text().replace("?", "!"))
    os.utime(file, ns=(when, when))
    after = [row.prompt for row in source(folder, "sums").examples()]
    assert after == [text.replace("?", "!") for text in before]


def test_its_files_are_found_whatever_the_working_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(LmEval(task="sums", folder="tasks").examples()) == 6


def test_a_task_may_build_on_lm_evals_own(folder: Path) -> None:
    """Names that the folder lacks are looked up among lm-eval's tasks."""
    assert benchmarks.load("sums", 0, str(folder)).tasks.keys() == {"sums"}
    line = refused(source(folder, "sumz"))
    assert line == (
        f"lm_eval.task: no task 'sumz' in tasks or in lm-eval {benchmarks.version()}; did you mean "
        "'sums'?"
    )


def test_a_task_that_does_not_exist_is_one_line() -> None:
    here = f"in lm-eval {benchmarks.version()}"
    assert refused(LmEval(task="openbokqa")) == (
        f"lm_eval.task: no task 'openbokqa' {here}; did you mean 'openbookqa'?"
    )
    assert refused(LmEval(task="??")) == (
        f"lm_eval.task: no task '??' {here}; see `lm-eval ls tasks`"
    )


def test_a_task_of_the_hub_without_a_network_is_one_line() -> None:
    assert refused(LmEval(task="openbookqa")) == (
        "lm_eval: no network to fetch the data of task 'openbookqa'; run it once with one, or give "
        "`folder`, a folder of tasks with their data"
    )


def test_a_folder_without_data_is_one_line(folder: Path) -> None:
    (folder / "sums_test.jsonl").unlink()
    assert refused(source(folder, "sums")) == (
        f"lm_eval: task 'sums' finds no data; put its files into {folder}: paths in its YAML begin "
        "there"
    )
    (folder / "sums_test.jsonl").write_text("")
    assert refused(source(folder, "sums")).startswith("lm_eval: task 'sums' finds no data; put")
    gone = folder / "gone"
    assert refused(source(gone, "sums")) == (
        f"lm_eval.folder: no such folder {gone}; check the path"
    )


@pytest.mark.parametrize(
    ("changed", "to", "line"),
    [
        ("task: sums", "task: sums\nunsafe_code: true",
         "lm_eval: task 'sums' runs code that the model writes; choose another task"),
        ("do_sample: false", "do_sample: true",
         "lm_eval: task 'sums' draws its answers at random; choose another task"),
        ("output_type: generate_until", "output_type: loglikelihood_rolling",
         "lm_eval: task 'sums' has no answer that is right or wrong; choose another task"),
        ("dataset_path: json", "dataset_path: org/nobody",
         "lm_eval: no network to fetch the data of task 'sums'; run it once with one, or give "
         "`folder`, a folder of tasks with their data"),
    ],
)  # fmt: skip
def test_what_a_study_cannot_ask_is_one_line(
    folder: Path, changed: str, to: str, line: str
) -> None:
    text = SUMS.replace(changed, to)
    if "rolling" in to:
        text = text.partition("generation_kwargs")[0]
    if "org/" in to:
        text = text.replace(
            "dataset_kwargs: {data_files: {train: sums_train.jsonl, test: sums_test.jsonl}}\n", ""
        )
    (folder / "sums.yaml").write_text(text)
    assert refused(source(folder, "sums")) == line


def test_code_of_a_publishers_is_not_run(folder: Path) -> None:
    (folder / "scripted.py").write_text("raise SystemExit('it ran')")
    text = BOOKISH.replace("dataset_path: json", "dataset_path: ./scripted.py")
    (folder / "bookish.yaml").write_text(text.replace("dataset_kwargs", "# dataset_kwargs"))
    assert refused(source(folder, "bookish")) == (
        "lm_eval: the data of task 'bookish' come as code, which is not run; choose another task"
    )


def test_shots_that_are_not_to_be_had_are_one_line(folder: Path) -> None:
    assert refused(source(folder, "picks", shots=6)) == (
        "lm_eval.shots: task 'picks' has no 6 examples to show; ask for fewer"
    )
    (folder / "sums.yaml").write_text(f"{SUMS}num_fewshot: 0\n")
    assert refused(source(folder, "sums", shots=1)) == (
        "lm_eval.shots: task 'sums' is asked without examples alone; set shots to 0"
    )


def test_an_unknown_metric_is_one_line(folder: Path) -> None:
    assert refused(source(folder, "bookish", metric="acc_nrom")) == (
        "lm_eval.metric: task 'bookish' has no metric 'acc_nrom'; did you mean 'acc_norm'?"
    )


def test_without_lm_eval_the_line_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        benchmarks, "find_spec", lambda name: None if name == "lm_eval" else find(name)
    )
    assert refused(source(folder, "sums")) == (
        "lm_eval: the package `lm_eval` is missing; pip install '.[eval]' in the clone of holdfast"
    )
