"""The kitchen's runner: its lanes, and the rivals' fields."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML


def test_the_rivals_have_the_fields_that_won_the_committed_trials(
    loaded: Callable[[str], Any], tmp_path: Path
) -> None:
    module = loaded("kitchen")
    study = module.STUDIES / "rivals.yaml"
    trials, log = (module.STUDIES / f"rivals.trials.{kind}" for kind in ("yaml", "jsonl"))
    made = module.with_winners(study, trials, log, tmp_path / "rivals.yaml")
    yaml = YAML(typ="safe")
    assert yaml.load(made) == yaml.load(study)


def test_a_lane_leaves_what_it_has_no_time_for_and_interrupts_what_runs(
    loaded: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    module = loaded("kitchen")
    asked: list[list[str]] = []
    popen = subprocess.Popen

    def sleeping(command: list[str], **options: Any) -> Any:
        asked.append(command[3:])
        code = (
            "import signal, sys, time\nsignal.signal(2, lambda *_: sys.exit(130))\ntime.sleep(60)"
        )
        return popen([sys.executable, "-c", code], **options)

    monkeypatch.setattr(module.subprocess, "Popen", sleeping)
    reported: list[str] = []
    monkeypatch.setattr(module, "in_spite_of", lambda study, *_: reported.append(study.name))
    out = tmp_path / "out"
    given = ["--seconds", "3", "--workers", "4", "--only", "first", "eight", "--out", str(out)]
    assert module.main(given) == 1
    assert [words[0] for words in asked] == ["run"]
    assert "--workers=4" in asked[0]
    assert reported == ["first.yaml"]
    assert "eight: exit -1 after 0 s" in capsys.readouterr().out
