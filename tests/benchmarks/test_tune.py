"""The benchmark of a host's tuning runs both ways and holds its bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def test_it_compares_three_forms_with_all_weights_and_with_an_adapter(
    loaded: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = loaded("tune")
    monkeypatch.setattr(module.torch, "set_num_threads", lambda _threads: None)
    module.main(["--small", "--batches", "1", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[5]] == ["all weights", "LoRA"]
    assert all("beside plain: " in lines[place] for place in (1, 2, 6, 7))
    assert lines[4].startswith("memory of a step: ")
    assert lines[9].endswith("the frozen copy beside it 0 MiB")


def test_it_compares_the_trl_form_on_rows_of_mixed_and_of_one_length(
    loaded: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("trl", reason="the extra `trl` is not installed")
    module = loaded("tune")
    monkeypatch.setattr(module.torch, "set_num_threads", lambda _threads: None)
    module.main(["--small", "--trl", "--batches", "1", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rows of one length: 1.00 times as many tokens with TRL's padding"
    assert lines[3].startswith("rows of mixed lengths: ")
    assert [line.split(":")[0] for line in lines[1:3]] == [
        "  the TRL form beside ours",
        "  the TRL form beside plain TRL",
    ]
