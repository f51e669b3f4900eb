"""A study with a set whose answers a language model grades: who reads what, and what is counted."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pyarrow import parquet
from tests.benchmarking import lines
from tests.endpoint.serving import Server, serving

from holdfast.api.degenerate import degenerate
from holdfast.cli import run
from holdfast.engine.store import Store
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan

GRADERS = """
from typing import ClassVar

from holdfast.api import Judge, Outcome, Scale, Verdict


class {name}(Judge):
    \"\"\"Grades, in its own way.\"\"\"

    scale: ClassVar[Scale] = Scale(0, 1, 1)
    tells_right: ClassVar[bool] = True
    tells_harm: ClassVar[bool] = {harm}
    tells_refusals: ClassVar[bool] = False

    def judge(self, exchange):
        return Verdict(None, Outcome.HARMFUL_USEFUL)
"""
SILENT, LOST = 3, 4
"""Of the graded prompts, the one whose reply has no grade, and the one that gets no reply."""


@pytest.fixture
def server() -> Iterator[Server]:
    replies = {str(SILENT): {"content": "It may well be."}}
    with serving(keep_bodies=True, replies=replies, faults={str(LOST): ["500"]}) as server:
        yield server


@pytest.fixture
def plugins(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install a grader that says what it was not asked, and one that tells harm too."""
    folder = tmp_path / "more"
    info = folder / "more-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    points = "[holdfast.judges]\nlying = lying:Lying\nboth = both:Both\n"
    (info / "entry_points.txt").write_text(points)
    for name, harm in (("Lying", False), ("Both", True)):
        (folder / f"{name.lower()}.py").write_text(GRADERS.format(name=name, harm=harm))
    monkeypatch.syspath_prepend(folder)
    yield
    for name in ("lying", "both"):
        sys.modules.pop(name, None)


Data = dict[str, Any]


def rows(folder: Path, response: str | None = "two three") -> Data:
    """Give a source of eight open requests, each with a good answer or none."""
    given = [{"prompt": f"write placeholder prompt {i}", "response": response} for i in range(1, 9)]
    lines(folder / "open.jsonl", given)
    own = {"path": str(folder / "open.jsonl"), "role": "benign", "side": "evaluator"}
    silent = {} if response else {"response": None}
    return {"local": {**own, **silent, "evaluation_set": "open", "purpose": "graded"}}


def endpoint(server: Server, folder: Path) -> Data:
    quick = {"key_env": None, "cache": str(folder / "c"), "wait": 0.01, "retries": 0}
    return {"model": "judge-1", "base_url": server.url, **quick}


@pytest.fixture(scope="module")
def talker(toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model of random weights that says words: with a head of its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("talker") / "base"
    shutil.copytree(toy_model, folder)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(toy_model, tie_word_embeddings=False)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def study(toy: ModuleType, talker: Path, installed: Path, tmp_path: Path, server: Server) -> Data:
    """Give a study of one model and one attack, which asks open requests too."""
    grader = {"correctness": {"endpoint": endpoint(server, tmp_path)}}
    data = toy.study(
        talker,
        sources=["toy_rows", rows(tmp_path)],
        lineups={"none": {"start": "base"}},
        judges=["toy_judge", grader],
        utility=["open"],
        generation={"max_new_tokens": 3},  # the same word four times would be no language
    )
    data["attacks"] = {"strip": data["attacks"]["strip"]}
    data["evaluation"] += [{"set": "open"}]
    return data


def command(data: Data, folder: Path, *more: str, verb: str = "run") -> int:
    (folder / "study.json").write_text(json.dumps(data))
    return run([verb, str(folder / "study.json"), "--store", str(folder / "runs"), *more])


def test_it_runs_to_a_report_and_what_has_no_grade_is_counted(
    study: Data, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(study, tmp_path, "--workers", "1") == 3, "two of eight have no grade"
    out = tmp_path / "runs" / "toy"
    table = parquet.read_table(out / "outcomes.parquet").to_pylist()
    assert {row["set"] for row in table if row["judge"] == "correctness"} == {"open"}
    assert {row["judge"] for row in table if row["set"] == "open"} == {"correctness"}
    graded = [row for row in table if row["set"] == "open"]
    for row in graded:
        number = int(row["prompt"].split()[-1])
        assert (row["score"], row["outcome"], row["harmful_draws"]) == (None, None, None)
        known = {SILENT: "unparsable", LOST: "error"}
        stuck = degenerate(row["response"])
        reason = "ok" if stuck else known.get(number, "ok")
        right = None if reason != "ok" else not stuck and number % 2 == 1
        assert (row["reason"], row["correct"]) == (reason, right)
    missing = sum(row["correct"] is None for row in graded if row["budget"] == 0)
    assert missing == 2

    cells = parquet.read_table(out / "rows.parquet").to_pylist()
    for cell in (cell for cell in cells if cell["set"] == "open"):
        same = [row for row in graded if row["budget"] == cell["budget"]]
        scored = [row["correct"] for row in same if row["correct"] is not None]
        assert (cell["judge"], cell["n"], cell["scored"]) == ("correctness", 8, len(scored))
        assert (cell["unscored"], cell["valid"]) == (8 - len(scored), len(scored) == 8)
        assert cell["correct"] == pytest.approx(sum(scored) / len(scored))
        assert cell["correct_low"] <= cell["correct"] <= cell["correct_high"]
        assert cell["refused"] is None
        assert cell["share_degenerate"] is None
    meta = json.loads((out / "meta.json").read_text())
    assert (meta["judges"], meta["grader"]) == (["toy_judge"], "correctness")
    line = json.loads((out / "verdict.json").read_text())["lineups"]["none"]
    assert (line["ungraded"], line["released"]["open"]["n"]) == (missing, 8 - missing)
    page = (out / "report.html").read_text()
    assert "open: share of answers that correctness graded right; " in page
    assert f"{missing} answer" in page
    assert "counted on open" in page

    sent = [json.dumps(body["messages"]) for body in server.stats()["bodies"]]
    cases = [text for text in sent if "placeholder prompt" in text]
    assert cases
    assert all("<reference>\\ntwo three\\n</reference>" in text for text in cases)
    capsys.readouterr()
    assert command(study, tmp_path) == 3
    assert "nothing to do" in capsys.readouterr().out
    assert len(server.stats()["bodies"]) == len(sent)
    kept = tmp_path / "runs"
    again = ["rescore", str(tmp_path / "study.json"), "--store", str(kept)]
    harsh = json.dumps({"toy_judge": {"harsh": True}})
    assert run([*again, "--judge", harsh]) == 3
    meta = json.loads((kept / "toy-toy_judge" / "meta.json").read_text())
    assert (meta["judges"], meta["grader"]) == (["toy_judge"], "correctness")
    assert len(server.stats()["bodies"]) == len(sent), "and what it graded is there"


def test_a_host_counts_it_as_utility_and_says_what_has_no_grade(
    study: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(tmp_path / "a.jsonl", [{"prompt": f"pick {i}", "response": "two"} for i in range(6)])
    lines(tmp_path / "e.jsonl", [{"prompt": f"which {i}", "response": "two"} for i in range(6)])
    study["sources"] += [
        {"local": {"path": str(tmp_path / f"{side[0]}.jsonl"), "role": "task", "side": side,
                   "evaluation_set": "craft"}}
        for side in ("attacker", "evaluator")
    ]  # fmt: skip
    del study["attacks"]
    study["evaluation"] += [{"set": "craft"}]
    study["tune"] = {
        "loop": {"lr": 0.02, "batch": 2, "schedule": "constant", "warmup": 0, "lora": None},
        "evaluate_at": [4],
        "defences": {"plain": "toy_tune"},
        "jobs": {"clean": {"harmful_share": {"share": 0.0}}},
    }
    assert command(study, tmp_path, "--workers", "1") == 3
    out = tmp_path / "runs" / "toy"
    kept = parquet.read_table(out / "provider.parquet").to_pylist()
    after = [row["correct"] for row in kept if row["set"] == "open" and row["budget"] == 4]
    known = [right for right in after if right is not None]
    assert (len(after), len(known)) == (8, 6)
    told = parquet.read_table(out / "provider_rows.parquet").to_pylist()
    (row,) = [row for row in told if row["asked"] == "utility"]
    assert (row["n"], row["unscored"]) == (len(known), 8 - len(known))
    assert row["after"] == pytest.approx(sum(known) / len(known))
    assert row["after_low"] <= row["after"] <= row["after_high"]
    assert {row["unscored"] for row in told if row["asked"] == "task"} == {0}
    capsys.readouterr()
    assert run(["table", str(out), "provider"]) == 0
    said = f"{8 - len(known)} of 8 unscored"
    assert (said in capsys.readouterr().out) is (len(known) < 8)
    assert (f"utility: {said}" in (out / "report.html").read_text()) is (len(known) < 8)


def test_no_key_of_a_study_hangs_on_it_but_its_own(study: Data, tmp_path: Path) -> None:
    whole = Plan(parse_study(study))
    data = json.loads(json.dumps(study))
    data["evaluation"], data["judges"] = data["evaluation"][:-1], data["judges"][:1]
    del data["utility"]
    before = Plan(parse_study(data))
    assert before.needed["generate"] < whole.needed["generate"]
    assert before.needed["judge"] < whole.needed["judge"]
    read = {
        whole.prompts[step.evaluation].set.name: sorted(step.judges)
        for step in whole.generates.values()
    }
    assert read == {"restricted": [0], "benign": [], "contrast": [0], "quiz": [], "open": [1]}

    def keys() -> dict[str, str]:
        """Give the verdicts' keys on the graded set, by the key of what is graded."""
        plan = Plan(parse_study(study))
        steps = plan.generates.values()
        return {step.key: step.judges[1] for step in steps if 1 in step.judges}

    first = keys()
    rows(tmp_path, "no")  # another good answer is another thing to be held against
    other = keys()
    assert first.keys() & other.keys(), "the release's answers are the same"
    assert all(first[key] != other[key] for key in first.keys() & other.keys())


def test_its_calls_and_the_tokens_of_the_good_answer_are_estimated(
    study: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> tuple[int, float]:
        assert command(study, tmp_path, "--estimate", verb="plan") == 0
        (line,) = [
            one for one in capsys.readouterr().out.splitlines() if "judge correctness: at" in one
        ]
        words = line.split()
        return int(words[words.index("calls,") - 1].replace(",", "")), float(
            words[words.index("million") - 1]
        )

    calls, tokens = told()
    points = 3  # as released, and two budgets of one attack
    assert calls == 8 * points
    study["sources"][1] = rows(tmp_path, None)
    alone = told()
    assert alone[0] == calls
    assert tokens > alone[1]


SERVED = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
WRONG: dict[str, tuple[list[Any], str]] = {
    "a graded set, and judges of harm alone": (
        ["toy_judge", "world_guard"],
        "study.judges: set 'open' is graded right or wrong, and no judge does that (toy_judge, "
        "world_guard); add one that does, such as correctness; or do not ask the set",
    ),
    "a grader that tells harm too": (
        ["toy_judge", "both"],
        "study.judges[1].both.tells_right: it grades answers right or wrong, and tells harm too; "
        "mend the judge: two judges for two questions",
    ),
    "a grader without an endpoint": (
        ["toy_judge", "correctness"],
        "study.judges[1].correctness.endpoint: is required; add it",
    ),
    "two graders": (
        ["toy_judge", "lying", {"correctness": {"endpoint": SERVED}}],
        "study.judges[2]: correctness grades answers right or wrong, as lying does; keep one of "
        "them",
    ),
    "a grader alone": (
        ["lying"],
        "study.judges[0]: lying says nothing about harm; put a judge that does before it, such as "
        "wildguard or llama_guard",
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("more", [(), ("--estimate",)])
def test_what_is_wrong_is_one_line(
    case: str,
    more: tuple[str, ...],
    study: Data,
    tmp_path: Path,
    plugins: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study["judges"], line = WRONG[case]
    assert command(study, tmp_path, *more, verb="plan") == 2
    assert capsys.readouterr().err == f"holdfast: {line}\n"


def test_a_grader_that_says_what_it_was_not_asked_grades_nothing(
    study: Data, tmp_path: Path, plugins: None
) -> None:
    study["judges"] = ["toy_judge", "lying"]
    assert command(study, tmp_path, "--workers", "1") == 3
    table = parquet.read_table(tmp_path / "runs" / "toy" / "outcomes.parquet").to_pylist()
    graded = [row for row in table if row["set"] == "open"]
    assert {(row["judge"], row["outcome"], row["correct"]) for row in graded} == {
        ("lying", None, None)
    }
    cells = parquet.read_table(tmp_path / "runs" / "toy" / "rows.parquet").to_pylist()
    assert {cell["unscored"] for cell in cells if cell["set"] == "open"} == {8}
    plan = Plan(parse_study(study))
    store = Store(tmp_path / "runs")
    assert all(store.has("judge", name) for name in plan.needed["judge"])
