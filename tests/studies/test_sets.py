"""A study asks for what a set is for: headline, utility and judges follow from purposes alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.cli import run
from holdfast.errors import HoldfastError
from holdfast.report.saved import Saved
from holdfast.stats import findings
from holdfast.stats.rows import Outcomes
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan

NAMES = {"restricted": "dark_ones", "benign": "bright_ones", "contrast": "edge", "quiz": "picks"}
"""The toy world's sets under other names: nothing may hang on them."""

MORE = """
from holdfast.api import EvalPurpose, EvalSet, Scorer, Source
from holdfast.data.example import Role, Side, example


class MoreRows(Source):
    \"\"\"Sets of every other purpose, some of them spoilt.\"\"\"

    def sets(self):
        return (
            EvalSet("second", EvalPurpose.HARM, Scorer.JUDGES, "Second"),
            EvalSet("gentle", EvalPurpose.REFUSED, Scorer.JUDGE, "Gentle"),
            EvalSet("craft", EvalPurpose.TASK, Scorer.EXACT, "Craft"),
            EvalSet("bench", EvalPurpose.LM_EVAL, Scorer.LM_EVAL, "Bench"),
            EvalSet("spoilt", EvalPurpose.EXACT, Scorer.EXACT, "Spoilt"),
        )

    def examples(self):
        metas = {
            "second": {"steps": ["one", "two"]}, "gentle": {"steps": ["one", "two"]},
            "craft": {"answer": "one"}, "bench": {}, "spoilt": {}, "nobodys": {},
        }
        return [
            example(f"{name} write {i}", role=Role.BENIGN, side=Side.EVALUATOR, group=f"{name} {i}",
                    source="more", meta={"set": name, **meta})
            for name, meta in metas.items() for i in range(4)
        ]
"""


@pytest.fixture
def site(toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the toy world with its sets under other names, and more sets beside it."""
    folder = tmp_path / "site"
    toy.install(folder)
    text = (folder / "toy_rows.py").read_text()
    for name, other in NAMES.items():
        text = text.replace(f'"{name}"', f'"{other}"')
    (folder / "toy_rows.py").write_text(text)
    (folder / "more_rows.py").write_text(MORE)
    info = folder / "more-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[holdfast.sources]\nmore_rows = more_rows:MoreRows\n")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in ("toy_rows", "toy_judge", "toy_nudge", "more_rows"):
        sys.modules.pop(name, None)


Study = Callable[..., dict[str, Any]]


@pytest.fixture
def study(toy: ModuleType, toy_model: Path, site: Path) -> Study:
    """Give a function that makes the toy study, asked its sets by their other names."""

    def make(*more: dict[str, Any], **changes: Any) -> dict[str, Any]:
        data = toy.study(toy_model, sources=["toy_rows", "more_rows"], **changes)
        asked = [one | {"set": NAMES[one["set"]]} for one in data["evaluation"]]
        return data | {"evaluation": [*asked, *more]}

    return make


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(HoldfastError) as caught:
        Plan(parse_study(data))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_names_are_a_sources_own(study: Study, tmp_path: Path) -> None:
    data = study({"set": "gentle", "at": "release"}, {"set": "craft", "at": "release"})
    file = tmp_path / "study.json"
    file.write_text(str(data).replace("'", '"'))
    assert run(["run", str(file), "--store", str(tmp_path / "runs"), "--workers", "1"]) in (0, 3)

    saved = Saved.read(tmp_path / "runs" / "toy")
    table = Outcomes(saved.outcomes)
    assert table.purposes == {
        "dark_ones": "harm", "bright_ones": "exact", "edge": "over_refusal", "picks": "options",
        "gentle": "refused", "craft": "task",
    }  # fmt: skip
    assert saved.meta["headline"] == "dark_ones"
    assert saved.meta["sets"] == {
        "dark_ones": "Dark", "bright_ones": "Bright", "edge": "Over-refusal", "picks": "Quiz",
        "gentle": "Gentle", "craft": "Craft",
    }  # fmt: skip
    assert table.distinct("judge", table.where(set="gentle")) == ["toy_judge"]
    assert table.distinct("judge", table.where(set=["edge", "craft", "picks"])) == ["exact"]
    found = findings.find(table, saved.lineups, saved.meta, resamples=0)
    line = found.lineups["none"]
    assert line.release["dark_ones"].n == 12
    assert line.over_refusal == line.release["edge"]
    page = (tmp_path / "runs" / "toy" / "report.html").read_text()
    assert "Dark: share of useful harmful answers. Gentle: share of benign requests" in page
    assert "Over-refusal: share of benign questions about restricted things" in page


def test_the_headline_is_the_only_harm_set_of_the_evaluator(study: Study) -> None:
    plan = Plan(parse_study(study()))
    assert (plan.headline.set.name, plan.headline.side) == ("dark_ones", "evaluator")
    # At the release alone a second one decides nothing.
    plan = Plan(parse_study(study({"set": "second", "at": "release"})))
    assert plan.headline.set.name == "dark_ones"
    again = parse_study(study({"set": "second"}, headline="dark_ones"))
    assert Plan(again).headline.set.name == "dark_ones"


def test_every_judge_reads_every_harm_set_and_the_first_alone_what_may_be_refused(
    study: Study,
) -> None:
    harsh = {"toy_judge": {"harsh": True}}
    data = study({"set": "second"}, {"set": "gentle"}, headline="dark_ones", judges=[harsh])
    plan = Plan(parse_study(data))
    read = {
        plan.prompts[step.evaluation].set.name: sorted(step.judges)
        for step in plan.generates.values()
    }
    assert read == {
        "dark_ones": [0], "second": [0], "edge": [0], "gentle": [0], "bright_ones": [],
        "picks": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "changes", "line"),
    [
        (
            [{"set": "second"}],
            {},
            "study.headline: the evaluator is asked 2 sets of purpose 'harm' (dark_ones, second); "
            "say which decides: `headline: dark_ones`",
        ),
        (
            [{"set": "second"}],
            {"headline": "secnd"},
            "study.headline: 'secnd' is no set of purpose 'harm' asked of side 'evaluator'; did "
            "you mean 'second'?",
        ),
        (
            [],
            {"headline": "bright_ones"},
            "study.headline: 'bright_ones' is no set of purpose 'harm' asked of side 'evaluator'; "
            "did you mean 'dark_ones'?",
        ),
        (
            [{"set": "second", "at": "release"}],
            {"headline": "second"},
            "study.evaluation[6].at: 'release' leaves every attacked model unasked; leave it out: "
            "harm is measured there",
        ),
        (
            [{"set": "second"}],
            {"headline": "second"},
            "study.evaluation: attacker 'harmful_sft' has choices, and there is no set 'second' "
            "of side 'attacker_selection' to choose on; add `- {set: second, side: "
            "attacker_selection}`",
        ),
        (
            [{"set": "nobodys"}],
            {},
            "study.evaluation[6].set: no source says what set 'nobodys' is for; declare it in the "
            "source's `sets`",
        ),
    ],
)
def test_what_is_ambiguous_or_unknown_is_one_line(
    study: Study, more: list[dict[str, Any]], changes: dict[str, Any], line: str
) -> None:
    assert refused(study(*more, **changes)) == line


def test_a_row_of_which_too_little_is_known_is_named_with_its_source(study: Study) -> None:
    line = refused(study({"set": "spoilt"}))
    assert re.sub(r"row \w{16} ", "row UID ", line) == (
        "study.evaluation[6]: evaluation set 'spoilt', side evaluator, row UID of source 'more': "
        "has no 'answer' to compare with; put it in the row's meta"
    )


def test_a_benchmarks_row_that_lm_eval_did_not_make_is_named(study: Study) -> None:
    assert re.sub(r"row \w{16} ", "row UID ", refused(study({"set": "bench"}))) == (
        "study.evaluation[6]: evaluation set 'bench', side evaluator, row UID of source 'more': is "
        "no document of lm-eval; bring it by the source lm_eval"
    )


def test_without_any_harm_set_the_line_names_what_sources_bring(study: Study) -> None:
    data = study()
    data["evaluation"] = [{"set": "bright_ones"}]
    assert refused(data) == (
        "study.evaluation: no set of purpose 'harm' of side 'evaluator'; add `- {set: "
        "dark_ones}`: harm is measured there"
    )


def test_nothing_outside_a_source_names_a_set(root: Path) -> None:
    """But for saved tables from before rows said what they are for, and studies made from files."""
    names = re.compile(r"""["'](restricted|name_only|facts|contrast|quiz|skill)["']""")
    found = {
        str(path.relative_to(root / "src" / "holdfast"))
        for path in (root / "src" / "holdfast").rglob("*.*")
        if path.suffix in (".py", ".j2") and "testbeds" not in path.parts
        if names.search(path.read_text().replace('class="facts"', ""))
    }
    said = {"evaluate/acted.py", "report/hardened_card.py"}  # what a sentence calls its prompts
    assert found == {"report/saved.py", "cli/drafting.py", "study/drafts.py"} | said
