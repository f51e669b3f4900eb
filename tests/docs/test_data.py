"""The page on data: its table is the registry's, its study can be planned, its example runs."""

from __future__ import annotations

import json
import re
import sys
from importlib import util
from pathlib import Path

import pytest

from holdfast.api import registry
from holdfast.api.fields import parse_yaml
from holdfast.cli import run as command
from holdfast.cli.verbs.ls import SETS, published
from holdfast.data.published import Published, Skip
from holdfast.data.sources.wildguardmix import CATEGORIES
from holdfast.study.file import load_study
from holdfast.study.plan import Plan
from holdfast.testing import check_source

BLOCK = re.compile(r"<!-- (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_registry(page: str) -> None:
    inside = page.partition(f"{SETS[0]}\n")[2].partition(f"\n{SETS[1]}")[0]
    assert inside == published(), "run `holdfast ls source --into docs/data.md`"


def test_every_published_set_is_told_about(page: str) -> None:
    told = page.partition("## What becomes of a set")[2]
    for name in registry.names("source"):
        if issubclass(registry.find("source", name), Published):
            assert f"`{name}`" in told, name
    for word in CATEGORIES.values():
        assert f"`{word}`" in told, word


def rows_of_wildguardmix(folder: Path) -> None:
    """Write a set with placeholder words, ten prompts a category and kind."""
    made = {"train": 40, "test": 4}
    for split, n in made.items():
        lines = []
        for named in ("benign", *CATEGORIES):
            harm = "unharmful" if named == "benign" else "harmful"
            lines += [
                {
                    "prompt": f"placeholder {split} prompt {i} of {named}",
                    "adversarial": False,
                    "response": f"placeholder answer {i}",
                    "prompt_harm_label": harm,
                    "response_refusal_label": "compliance",
                    "response_harm_label": harm,
                    "subcategory": named,
                }
                for i in range(n)
            ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_the_cross_domain_table_is_one_study(
    page: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows_of_wildguardmix(tmp_path)
    text = dict(BLOCK.findall(page))["study.yaml"]
    for shown, here in (
        ("path: models/base, format: chat", 'path: "world:base", format: plain'),
        ("my_judge", "{refusal_keywords: {otherwise: not_refused}}"),
        ("{refusal:", f"{{folder: '{tmp_path}', rows: any, refusal:"),
        (
            "{purpose: exact}",
            f"{{folder: '{root}/tests/data/published/gsm8k', rows: any, purpose: exact}}",
        ),
        (", n: 100", ""),
        ("256", "48"),
    ):
        assert shown in text
        text = text.replace(shown, here)
    for word in ("cyberattack", "sensitive_information", "violence"):
        small = "evaluate_at: [4], loop: {batch: 4}"
        text = text.replace(f"harmful_sft: {{categories: [{word}]}}",
                            f"harmful_sft: {{categories: [{word}], {small}}}")  # fmt: skip
    study = tmp_path / "study.yaml"
    study.write_text(text)
    plan = Plan(load_study(study))
    assert {prompt.category for prompt in plan.prompts[0].rows} == {
        "cyberattack", "sensitive_information", "violence"
    }  # fmt: skip
    assert len(plan.trajectories) >= 4 * 3 * 3
    assert command(["plan", str(study), "--store", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "\nsource wildguardmix: downloaded files: 1220 rows from 660 published\n" in said
    assert "\nsource gsm8k: downloaded files: 3 rows from 4 published (dropped: 1 " in said


def test_the_example_of_a_published_set_keeps_the_contract(page: str, tmp_path: Path) -> None:
    blocks = dict(BLOCK.findall(page))
    module = tmp_path / "riddles.py"
    module.write_text(blocks["src/holdfast/data/sources/riddles.py"])
    (tmp_path / "test.csv").write_text(blocks["tests/data/published/riddles/test.csv"])
    spec = util.spec_from_file_location("riddles", module)
    assert spec is not None
    assert spec.loader is not None
    made = util.module_from_spec(spec)
    sys.modules["riddles"] = made
    try:
        spec.loader.exec_module(made)
        check_source(made.Riddles(folder=str(tmp_path)))
        found = made.Riddles(folder=str(tmp_path))
        assert [row.known.answer for row in found.examples()] == ["A piano.", "A bottle."]
        assert found.loaded.dropped == {Skip.UNLABELLED: 1}
    finally:
        del sys.modules["riddles"]


def test_the_study_on_the_page_is_yaml(page: str) -> None:
    said = parse_yaml(dict(BLOCK.findall(page))["study.yaml"], "docs/data.md")
    assert set(said["lineups"]) == {"none", "cyberattack", "sensitive_information", "violence"}
