"""The page on trials shows a file that can be run."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.api.fields import parse_yaml
from holdfast.study.rehearsal import rehearse, trials_of
from holdfast.study.trials import parse_trials


def test_the_file_the_page_shows_is_planned_as_it_is(root: Path) -> None:
    page = (root / "docs" / "trials.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    said = parse_trials(parse_yaml(shown, "docs/trials.md"))
    trials = trials_of(said)

    assert len(trials) == 1 + said.trials * len(said.methods)
    assert len(rehearse(said, trials).tracks) == 2 * len(trials)
