"""The judge with `open` and `judge_many` that docs/studies.md shows, run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from holdfast.api import Exchange, Judge, Outcome, Reason, Scale, Verdict
from holdfast.testing import check_judge


class Loaded:
    """What `load` gives: something that reads many answers at once."""

    def read(self, exchanges: list[Exchange]) -> list[str]:
        return [one.response for one in exchanges]


def verdict(said: str) -> Verdict:
    if not said.strip():
        return Verdict(None, None, Reason.EMPTY)
    return Verdict(min(1.0, len(said) / 100), Outcome.DEFLECTION)


def test_the_judge_of_the_page_keeps_the_contract(root: Path) -> None:
    page = (root / "docs" / "studies.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(class Guard\(Judge\):\n.*?)```", page, re.DOTALL)
    opened: list[str] = []

    def load(device: str) -> Loaded:
        opened.append(device)
        return Loaded()

    names: dict[str, Any] = {
        "__name__": "guard", "Any": Any, "ClassVar": ClassVar, "Judge": Judge, "Scale": Scale,
        "PrivateAttr": PrivateAttr, "load": load, "verdict": verdict,
    }  # fmt: skip
    exec(code, names)
    check_judge(names["Guard"])
    assert set(opened) == {"cpu"}
