"""A device that is not there is one line, before anything runs."""

from __future__ import annotations

import pytest
import torch

from holdfast.cli import run
from holdfast.cli.device import known
from holdfast.errors import ConfigError

MODEL = ["--model", "nowhere", "--format", "plain", "--out", "out"]
COMMANDS = {
    "plan": ["plan", "nowhere.yaml"],
    "run": ["run", "nowhere.yaml"],
    "defend": ["defend", "sgt", *MODEL],
    "attack": ["attack", "strip", *MODEL],
    "generate": ["generate", *MODEL],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("device", ["foo", "cuda:", "cuda:-1", "gpu", "cuda:x", "cpu:0"])
def test_an_unknown_word_is_refused_before_anything_else(
    command: str, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*COMMANDS[command], "--device", device]) == 2
    assert capsys.readouterr().err == (
        f"holdfast: --device: no device '{device}'; use cpu, cuda or cuda:N\n"
    )


@pytest.mark.parametrize(
    ("count", "asked", "there"),
    [(0, "cuda", "none"), (1, "cuda:1", "cuda:0"), (4, "cuda:4", "cuda:0 to cuda:3")],
)
def test_a_device_this_machine_lacks_is_refused_with_those_it_has(
    count: int, asked: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError) as caught:
        known(asked)
    assert str(caught.value) == (
        f"--device: '{asked}' is not there (CUDA devices torch sees: {there}); use cpu, or see "
        "`holdfast doctor`"
    )
    assert count == 0 or known("cuda") == "cuda"
