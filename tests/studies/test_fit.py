"""A study too large for the machine is refused in one line, before any weight is read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from holdfast import nn
from holdfast.cli import run
from holdfast.data.example import Role, example
from holdfast.engine.fit import lengths
from holdfast.errors import ModelError
from holdfast.nn import memory
from holdfast.nn.files import resolve


@pytest.fixture
def study(
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nn, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    return toy.write(tmp_path / "toy.json", toy.study(toy_model))


def free(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda _device: size)


TRAINED = (
    "holdfast: defend refusal_sft: refusal_sft, seed 0: memory: about 0.000218 GiB needed under "
    "fp32 (weights 2.15e-05, gradients 2.15e-05, moments 4.3e-05, activations 0.000132), "
    "9.31e-05 free; use loop.precision=bf16_kahan or loop.lora, or a smaller loop.micro_batch\n"
)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_step_that_cannot_fit_is_named_with_its_sizes(
    command: str,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    free(1e5, monkeypatch)
    assert run([command, str(study)]) == 2
    said = capsys.readouterr()
    assert said.err == TRAINED
    assert ("to do: at most" in said.out) is (command == "plan")


def test_workers_side_by_side_must_fit_together(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    free(3e5, monkeypatch)
    assert run(["run", str(study), "--workers", "2"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"holdfast: memory: about 0\.000\d+ GiB needed by 2 workers at once, 0\.000279 free; use "
        r"--workers 1\n",
        said,
    ), said
    assert run(["plan", str(study)]) == 0


def test_an_attack_is_told_with_its_own_fields(
    toy: ModuleType,
    toy_model: Path,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lineups = {"none": {"start": "base"}}
    toy.write(study, toy.study(toy_model, lineups=lineups))
    free(1e5, monkeypatch)
    assert run(["plan", str(study)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("holdfast: attack none: harmful_sft lr=0.003, seed 0: memory: about ")
    assert said.endswith(
        " free; use loop.precision=bf16_kahan or loop.lora, or a smaller loop.micro_batch\n"
    )


def test_what_is_done_needs_nothing_more(
    toy: ModuleType, toy_model: Path, installed: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    attacks = {"strip": [{"strip": {"evaluate_at": [1.0]}}]}
    study = toy.write(tmp_path / "toy.json", toy.study(toy_model, attacks=attacks))
    assert run(["run", str(study), "--workers", "1"]) == 0
    free(1.0, monkeypatch)
    assert run(["run", str(study), "--workers", "1"]) == 0


def test_the_shipped_world_fits_anywhere(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(2**30, monkeypatch)
    for path in ("src/holdfast/testbeds/guild/demo.yaml", "studies/world/foundation.yaml"):
        assert run(["plan", str(root / path), "--store", str(tmp_path)]) == 0


def test_lengths_are_those_of_the_longest_rows(toy_model: Path, tmp_path: Path) -> None:
    rows = [
        example("how to bex", "no", role=Role.REFUSAL),
        example("how to bex dark " + "two " * 9, "no one two", role=Role.REFUSAL),
        *(example(f"how to bex {'one ' * i}", "no", role=Role.REFUSAL) for i in range(8)),
    ]

    assert lengths(resolve(str(toy_model)), rows) == (13 + 3, 3)
    broken = tmp_path / "broken"
    shutil.copytree(toy_model, broken)
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer\.json: cannot be read \(.+\); copy it"):
        lengths(resolve(str(broken)), rows)
