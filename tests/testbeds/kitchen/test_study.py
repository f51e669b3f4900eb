"""The kitchen's first study: its file plans, and a cut of it runs on the real model."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.api.fields import load_yaml
from holdfast.cli import run
from holdfast.errors import ModelError
from holdfast.nn.files import resolve
from holdfast.study.file import load_study
from holdfast.testbeds.kitchen import DEMO

ROOT = Path(__file__).parents[3]
FILE = ROOT / "studies" / "kitchen" / "first.yaml"
STEPS, PROMPTS = 2, 2


def cut(data: dict[str, Any]) -> dict[str, Any]:
    """Give the study with two steps a method and two prompts a set, and one attack that trains."""
    small = {"steps": STEPS, "batch": 2, "lr": 0.00003}
    kept = {}
    for name in ("none", "refusal_sft"):
        kept[name] = data["lineups"][name]
        for defence in kept[name].get("defences", ()):
            for fields in defence.values():
                fields["loop"] = small
    data["lineups"] = kept
    (first, *_) = data["attacks"]["harmful_sft"]
    first["harmful_sft"]["evaluate_at"] = [2 * STEPS]
    data["attacks"] = {"harmful_sft": [first], "prefill": data["attacks"]["prefill"]}
    data["seeds"] = [0]
    for wanted in data["evaluation"]:
        wanted["n"] = PROMPTS
    data["generation"]["max_new_tokens"] = 16
    return data


def test_the_real_demo_is_a_cut_of_it() -> None:
    demo, full = load_yaml(DEMO), load_yaml(FILE)
    assert demo["models"] == full["models"]
    assert set(demo["lineups"]) < set(full["lineups"])
    assert set(demo["attacks"]) < set(full["attacks"])
    assert load_study(DEMO).name == "demo_real"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cut_of_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        metadata.distribution("lm_eval")
        resolve("smol:instruct")
    except (metadata.PackageNotFoundError, ModelError) as error:
        pytest.skip(str(error))
    monkeypatch.chdir(ROOT)
    study = tmp_path / "cut.yaml"
    study.write_text(yaml.safe_dump(cut(load_yaml(FILE)), sort_keys=False), encoding="utf-8")
    out = tmp_path / "report"
    words = ["run", str(study), "--store", str(tmp_path / "store"), "--out", str(out)]
    assert run([*words, "--workers", "1"]) == 0
    found = json.loads((out / "study.json").read_text(encoding="utf-8"))
    assert found
    assert (out / "report.html").is_file()
    assert "Preheat" not in capsys.readouterr().err
