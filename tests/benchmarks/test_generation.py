"""The benchmark of generation runs in small, and every way says the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest


def test_every_way_says_the_same(
    loaded: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    module = loaded("generation")
    assert module.main(["--self-check", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line[:20].strip() for line in lines] == [
        "one by one", "padded by 8", "ours, padded*", "ours, continuous"
    ]  # fmt: skip
    assert [line.split()[-1] for line in lines] == ["0"] * 4


def test_other_answers_fail(loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded("generation")
    real = module.measured

    def lying(*given: Any) -> Any:
        found = real(*given)
        lying.calls += 1
        if lying.calls == 3:
            return replace(found, texts=["x"] * len(found.texts))
        return found

    lying.calls = 0
    monkeypatch.setattr(module, "measured", lying)
    assert module.main(["--self-check", "--threads", "1"]) == 1
