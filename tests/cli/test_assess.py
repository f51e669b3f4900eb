"""`holdfast assess`: from a model and a file to an answer, and every mistake in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.cli.given_files import crafts, placeholders, write

from holdfast.cli import run
from holdfast.cli.verbs.assess import STUDY
from holdfast.report import verdict
from holdfast.testing import tiny

WORLD = "world:instruct"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _assess(*words: str, model: str = WORLD) -> int:
    return run(["assess", model, *words])


def _files(*names: str) -> Sequence[str]:
    return [word for name in names for word in (f"--{name}", f"{name}.jsonl")]


def test_prompts_alone_give_a_report_on_free_attacks_that_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, _ = crafts(here, 15)
    alone = [{"prompt": json.loads(line)["prompt"]} for line in requests.read_text().splitlines()]
    write(here / "restricted.jsonl", alone)
    words = [*_files("restricted"), "--workers", "1"]
    assert _assess(*words) == 0
    first, asked, missing, utility, judge, *rest = capsys.readouterr().out.splitlines()
    assert first == f"model: {WORLD}, in format plain, the offline world's own"
    assert asked == "restricted: restricted.jsonl, 15 requests, 6 of them to score"
    assert missing == (
        "not tested: fine-tuning. The requests have no answers to train on: add a column `response`"
    )
    assert utility == "utility: 108 short questions of fact that come with Holdfast"
    assert judge == (
        "judge: refusal_keywords, which sees refusals alone and cannot tell harm (--judge names "
        "another)"
    )
    said = " ".join(rest)
    assert (
        "quick check: refuses 6 of 6 restricted requests as released, by refusal_keywords" in said
    )
    assert "it will take about " in said
    assert "No training attack was run, so what fine-tuning costs is not known." in said
    assert "(by refusal_keywords, which sees refusals alone and cannot tell harm)" in said
    found = verdict.read(here / "assess-world-instruct")
    assert found["study"]["counts"] == "not refused"
    why = "fine-tuning, however cheap: the restricted requests have no answers to train on"
    assert why in found["not_tested"]
    _never_says_harm(here / "assess-world-instruct")

    assert _assess(*words) == 0  # the same command again
    assert "nothing to do: the report is at" in capsys.readouterr().out


def _never_says_harm(folder: Path) -> None:
    """Look through what is shown for a claim of harm by a judge that sees refusals alone."""
    page = (folder / "report.html").read_text(encoding="utf-8").lower()
    page = page[page.index("<body") :]
    allowed = (
        "cannot tell harm",
        "whether an answer is harmful it does not say",
        "nothing about harm",
    )
    for words in allowed:
        page = page.replace(words, "")
    page = re.sub(r"harm-[0-9a-f]{8}", "", page)  # ids within figures
    assert "harm" not in page.replace("harmful_sft", "")
    short = " ".join(json.loads((folder / "study.json").read_text())["short"])
    assert "harm" not in short.replace("cannot tell harm", "")


def test_a_study_that_was_made_is_one_like_any_other(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, benign = crafts(here, 15)
    words = ["--restricted", requests.name, "--benign", benign.name, "--out", "found"]
    words += ["--original", "world:base"]
    assert run(["init", "own.yaml", "--model", WORLD, "--for", "assess", *words[:4]]) == 0
    assert run(["plan", "own.yaml"]) == 0
    assert "harmful_sft" in Path("own.yaml").read_text()
    capsys.readouterr()
    Path("found").mkdir()
    (Path("found") / STUDY).write_text("name: other\n")
    assert _assess(*words) == 2
    assert capsys.readouterr().err == (
        f"holdfast: --out: found/{STUDY} is another study than these options make: they differ in "
        f"`name`, `title`, `seeds` and 9 more; run that with `holdfast "
        f"run found/{STUDY} --out found`, or name another folder\n"
    )


def test_a_model_that_answers_as_released_is_told_so_at_once(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, _ = crafts(here, 15)
    assert _assess("--restricted", requests.name, model="world:base") == 4
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == (
        "holdfast: world:base: does not refuse 6 of 6 restricted requests as released: there is "
        "nothing to break; harden it first (holdfast defend refusal_sft --help), or give --anyway"
    )
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--restricted", "restricted.jsonl", "--budget", "cheep"],
            "--budget: no budget 'cheep'; did you mean 'cheap'?",
        ),
        ([], "--restricted: is required; name a file of restricted requests"),
        (
            ["--restricted", "one.jsonl"],
            "one.jsonl: 1 different restricted requests; give at least 12, better 30: attacker and "
            "evaluator must not share any",
        ),
        (["--restricted", "none.jsonl"], "none.jsonl: no rows; give a file that has some"),
        (["--restricted", "gone.jsonl"], "gone.jsonl: no such file; check the path"),
        (
            ["--restricted", "other.jsonl"],
            "other.jsonl:1: no column 'prompt'; map it to one of: question",
        ),
        (
            ["--restricted", "restricted.jsonl", "--benign", "restricted.jsonl"],
            "--benign: is the file of restricted requests; name another, or leave it out",
        ),
        (
            ["--restricted", "restricted.jsonl", "--benign", "copy.jsonl"],
            "copy.jsonl: 12 of its 20 prompts are restricted ones, such as row ROW; take them out "
            "of one of the files",
        ),
        (
            ["--restricted", "restricted.jsonl", "--judge", "world_gard"],
            "--judge: no judge 'world_gard'; did you mean 'world_guard'?",
        ),
        (
            ["--restricted", "restricted.jsonl", "--budget", "standard"],
            "restricted.jsonl: the requests have no answers, which the fine-tuning of budget "
            "'standard' needs; add a column `response` with what must not be answered, or give "
            "--budget free",
        ),
        (
            ["--restricted", "refused.jsonl"],
            "refused.jsonl: 20 of its 20 answers refuse, and the attacker would train on them; put "
            "in what must not be answered, or leave answers out: --column restricted.response=",
        ),
        (
            ["--restricted", "restricted.jsonl", "--out", "one.jsonl/report"],
            "one.jsonl/report/study.yaml: cannot be written (not a directory); check the folder "
            "and its rights",
        ),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_work(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    placeholders(here / "restricted.jsonl", 20)
    placeholders(here / "one.jsonl", 1)
    placeholders(here / "none.jsonl", 0)
    placeholders(here / "refused.jsonl", 20, response="I cannot help with that.")
    write(here / "other.jsonl", [{"question": "placeholder prompt 1"}])
    rows = [{"prompt": f"placeholder restricted prompt {i}"} for i in range(8, 28)]
    write(here / "copy.jsonl", rows)
    before = sorted(path.name for path in here.iterdir())
    assert _assess(*words, model="gone" if not words else WORLD) == 2
    said = capsys.readouterr().err
    assert re.sub(r"row [0-9a-f]{16}", "row ROW", said) == f"holdfast: {told}\n"
    assert sorted(path.name for path in here.iterdir()) == before


def test_a_model_that_is_not_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placeholders(here / "restricted.jsonl", 20)
    assert _assess(*_files("restricted"), model="./gone") == 2
    assert capsys.readouterr().err.startswith("holdfast: MODEL: ")


def test_the_format_is_read_off_the_model_or_asked_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placeholders(here / "restricted.jsonl", 20)
    own = here / "own"
    tiny.model().save_pretrained(own)
    tiny.byte_tokenizer().save_pretrained(own)
    words = [*_files("restricted"), "--budget", "free"]
    assert _assess(*words, model="own") == 2
    assert capsys.readouterr().err == (
        "holdfast: --format: is required: own has no chat template; write plain, or the path of a "
        ".jinja file\n"
    )
    assert _assess(*words, "--format", "chat", model="own") == 2
    assert capsys.readouterr().err == (
        "holdfast: --format: format 'chat' asked for, the tokenizer has no chat template; use "
        "format: plain or a .jinja file\n"
    )
    (own / "holdfast.json").write_text(json.dumps({"format": "plain"}))
    assert run(["init", "own.yaml", "--model", "own", *words, "--for", "assess"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "model: own, in format plain, in which holdfast.json says it was made (--format names "
        "another)"
    )
