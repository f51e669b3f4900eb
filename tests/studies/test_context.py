"""A prompt and its answer that a model has no room for: one line before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.cli import run

Try = Callable[..., tuple[int, str]]

TEMPLATE = (
    "{% for m in messages %}{{ 'take two ' * wide }}{{ m.role }} {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant\n{% endif %}"
)

NONE = {"none": {"start": "base"}}
TRAINS = {"harmful_sft": [{"harmful_sft": {"loop": {"lr": 0.01, "batch": 2}, "evaluate_at": [4]}}]}


@pytest.fixture
def attempt(
    toy: ModuleType,
    installed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Try:
    """Give what plans and runs a study on a model of some context: the code, and stderr."""
    monkeypatch.chdir(tmp_path)
    toy.model(Path("model"))
    Path("wide.jinja").write_text(TEMPLATE)
    capsys.readouterr()

    def act(context: int, **changes: Any) -> tuple[int, str]:
        config = json.loads(Path("model/config.json").read_text())
        config["max_position_embeddings"] = context
        Path("model/config.json").write_text(json.dumps(config))
        toy.write(Path("study.json"), toy.study(Path("model"), **changes))
        told = []
        for verb in ("plan", "run"):
            code = run([verb, "study.json"])
            told.append((code, ["", *capsys.readouterr().err.splitlines()][-1]))
        if told[0][0]:  # told when planned, and before anything runs
            assert told[0] == told[1]
        return told[1]

    return act


def test_a_prompt_with_its_answer_over_the_context_is_one_line(attempt: Try) -> None:
    only = {"lineups": {"none": {"start": "base"}}, "attacks": {"strip": [{"strip": {}}]}}
    code, told = attempt(12, **only)
    assert code == 2
    assert told.startswith("holdfast: evaluation set 'restricted': row ")
    assert told.endswith(
        " tokens and 4 for the answer, the model's context is 12; shorten or drop the row, or ask "
        "for shorter answers"
    )


def test_rows_of_a_method_over_the_context_are_one_line(attempt: Try) -> None:
    short = {"max_new_tokens": 1}
    code, told = attempt(11, lineups=NONE, attacks=TRAINS, generation=short)
    assert code == 2
    assert told.startswith("holdfast: attack none: harmful_sft lr=0.01, seed 0: row ")
    assert told.endswith("the model's context is 11; shorten or drop the row")


def test_what_an_attack_by_prompt_adds_counts(attempt: Try) -> None:
    wordy = {"prefill": {"openings": ["take one two three " * 9]}}
    only = {"lineups": {"none": {"start": "base"}}}
    code, told = attempt(40, **only, attacks={"prefill": [wordy]})
    assert code == 2
    assert told.startswith("holdfast: prefill: evaluation set 'restricted': row ")
    assert " and 4 for the answer, the model's context is 40; " in told


def test_the_templates_own_words_count(attempt: Try) -> None:
    base = {"path": "model", "format": "wide.jinja", "variables": {"wide": 1}}
    attacks = {"strip": [{"strip": {"evaluate_at": [1.0]}}]}
    given = {"lineups": {"none": {"start": "base"}}, "attacks": attacks}
    assert attempt(40, **given, models={"base": base})[0] == 0
    wide = base | {"variables": {"wide": 20}}
    code, told = attempt(40, **given, models={"base": wide})
    assert code == 2
    assert " and 4 for the answer, the model's context is 40; " in told


def test_a_row_that_needs_a_token_without_embedding_is_one_line(attempt: Try) -> None:
    path = Path("model/tokenizer.json")
    made = json.loads(path.read_text())
    rows = len(made["model"]["vocab"])
    made["model"]["vocab"]["dark"] = rows + 3
    path.write_text(json.dumps(made))
    code, told = attempt(64, lineups=NONE, attacks=TRAINS)
    assert code == 2
    assert told.endswith(
        f": needs the token {rows + 3}, the model's embedding has {rows} rows; resize the "
        "embedding and save the model, or use its own tokenizer"
    )


def test_planning_a_world_that_fits_loads_no_tokenizer(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom holdfast.cli import run\n"
        "plan = ['plan', 'studies/world/sgt_choices.yaml', '--store', sys.argv[1]]\n"
        "assert run(plan) == 0\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "[]"
    assert "prompts are asked in format" in done.stderr
