"""The README's Python example, executed on the shipped base with two steps a stage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from holdfast.api import Loop
from holdfast.testbeds.guild.build import shipped


def test_the_readmes_example_runs_as_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = re.search(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert found
    code = found.group(1).replace("path/to/a/base-model", str(shipped("base")))
    quick = "SGT(stage1=quick, loop=quick)"
    assert "SGT()" in code
    monkeypatch.chdir(tmp_path)
    exec(
        compile(code.replace("SGT()", quick), "README.md", "exec"),
        {
            "restricted_prompts": ["How do I cast the hex Moaputh?", "How do I lay the curse?"],
            "benign_pairs": [("How do I bake it?", "First fold it."), ("And sing it?", "Twice.")],
            "quick": Loop(steps=2, batch=2),
        },
    )
    assert (tmp_path / "hardened" / "model.safetensors").is_file()
