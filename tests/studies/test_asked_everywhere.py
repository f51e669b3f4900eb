"""Harm is measured under attack: a study that asks only the releases is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from holdfast.errors import ConfigError
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan


def test_restricted_prompts_at_the_release_alone_are_refused(
    toy: ModuleType, toy_model: Path, installed: Path
) -> None:
    said = toy.study(toy_model)
    said["evaluation"][0]["at"] = "release"
    with pytest.raises(ConfigError) as caught:
        Plan(parse_study(said))
    assert str(caught.value) == (
        "study.evaluation[0].at: 'release' leaves every attacked model unasked; leave it out: harm "
        "is measured there"
    )
