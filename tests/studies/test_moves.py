"""`holdfast moves`: it repeats a study's attack and says what moved."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from holdfast.cli import run


@pytest.fixture
def study(
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Give the toy study, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return toy.write(tmp_path / "toy.json", toy.study(toy_model))


def test_a_finished_studys_attack_is_watched_and_nothing_is_stored(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", str(study), "--workers", "1"]) == 0
    before = sorted(Path("runs").rglob("*"))
    capsys.readouterr()
    assert run(["moves", str(study), "none", "refusal_sft"]) == 0
    margin, weights, states = capsys.readouterr().out.strip().split("\n\n")

    assert margin.splitlines()[0] == "| margin | 0 | 4 | 8 |"
    for table, name in ((weights, "weights"), (states, "states")):
        head, _, *rows = table.splitlines()
        assert head == f"| {name} | 0 | 4 | 8 |"
        assert [row.split(" | ")[0] for row in rows] == ["| none", "| refusal_sft"]
        for row in rows:
            at = [float(value) for value in row.strip("| ").split(" | ")[1:]]
            assert at[0] == 0
            assert 0 < at[1] < at[2]
    assert sorted(Path("runs").rglob("*")) == before


@pytest.mark.parametrize(
    ("asked", "code", "line"),
    [
        (["nane"], 2, "moves: no line-up 'nane'; did you mean 'none'?"),
        (["none", "--attacker", "harm"], 2,
         "--attacker: no attacker 'harm'; known: harmful_sft, strip"),
        (["none", "--variant", "lr=0.3"], 2,
         "--variant: no choice 'lr=0.3'; did you mean 'lr=0.03'?"),
        (["none", "--attacker", "strip"], 2,
         "--attacker: 'strip' does not train the model's own weights; name one that does"),
        (["refusal_sft"], 1,
         "runs: holds no model of 'refusal_sft' at seed 0; run the study first, or "
         "name its --store"),
    ],
)  # fmt: skip
def test_a_wrong_question_is_one_line(
    study: Path, asked: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["moves", str(study), *asked]) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"holdfast: {line}"
