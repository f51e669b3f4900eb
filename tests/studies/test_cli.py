"""The commands: what they say, what they write, how fast the light ones are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from holdfast.api.registry import KINDS, names
from holdfast.cli import run
from holdfast.study.file import load_study

NONE = ("--held-out", "0")
"""These models learn nothing in three steps, and need not."""
HEAVY = "('torch', 'numpy', 'transformers', 'pyarrow', 'matplotlib')"


@pytest.fixture
def study(
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Give the toy study's file, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return toy.write(tmp_path / "toy.json", toy.study(toy_model))


def light(root: Path, *arguments: str, path: Path | None = None) -> tuple[int, list[str]]:
    """Run a command in a fresh process; give how many modules it imported, and the heavy ones."""
    code = (
        "import sys; from holdfast.cli import run; code = run(sys.argv[1:]); "
        f"print(len(sys.modules), *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr); "
        "sys.exit(code)"
    )
    paths = [str(root / "src"), *([str(path)] if path else [])]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
    )
    number, *heavy = done.stderr.split()
    return int(number), heavy


@pytest.mark.parametrize("arguments", [["--help"], ["ls"], ["--version"]])
def test_light_commands_import_little_and_no_torch(arguments: list[str], root: Path) -> None:
    """Imports are nearly all of their time: 330 modules of Python's and typer's, a third second."""
    number, heavy = light(root, *arguments)

    assert heavy == []
    assert number < 400


@pytest.mark.parametrize("arguments", [["schema"], ["show", "sgt"], ["show", "strip"]])
def test_telling_what_there_is_imports_nothing_heavy(arguments: list[str], root: Path) -> None:
    assert light(root, *arguments)[1] == []


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    verbs = (
        "demo ls show plan run report gate defend attack generate judge rescore world doctor gc"
        " schema trials table moves"
    )
    for verb in verbs.split():
        assert f"\n  {verb} " in said
        assert run([verb, "--help"]) == 0


def test_without_a_command_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().out


def test_ls_names_methods_and_where_plugins_come_from(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert any(line.split()[:2] == ["defence", "sgt"] for line in lines)
    assert any(line.split()[:3] == ["judge", "toy_judge", "[holdfast-toy]"] for line in lines)


def test_show_tells_fields_defaults_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "harmful_sft"]) == 0
    said = capsys.readouterr().out

    assert "attack harmful_sft (version 1, from holdfast)" in said
    assert (
        "loop: How it trains; source: SGT's attack (AdamW 1e-5 at a constant rate, batch 2" in said
    )
    assert "\n      lr (number above 0) = 1e-05: Learning rate of AdamW at its highest.\n" in said
    assert "\n      lora (fields or None) = None: Train a low-rank" in said
    assert "\n        rank (whole number" in said
    assert "needs control of: data; budget in: examples" in said

    assert run(["show", "adaptive_trigger"]) == 0
    assert "it is harmful_sft to the bit (docs/fidelity/adaptive_trigger.md)\n" in (
        capsys.readouterr().out
    )


def test_show_tells_the_fields_of_a_group_that_is_required(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody can guess what an endpoint is made of."""
    assert run(["show", "rubric"]) == 0
    said = capsys.readouterr().out
    assert "\n    endpoint (fields) = required: The server," in said
    for line in (
        "model (text) = required: The model, as the server calls it.",
        "base_url (text) = required: The server's address",
        "key_env (text or None) = OPENAI_API_KEY: ",
        "limit (max_tokens or max_completion_tokens) = max_tokens: ",
        "concurrency (whole number from 1) = 16: ",
        "extra (values by name) = {}: ",
        "prices (fields or None) = None: ",
        "  input (number from 0) = required: For a million tokens that are sent.",
    ):
        assert f"\n      {line}" in said


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_can_be_shown(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in names(kind):
        assert run(["show", name]) == 0
        assert f"{kind} {name} (version " in capsys.readouterr().out


def test_the_schema_is_json_and_names_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)

    assert {"models", "lineups", "evaluation"} <= set(schema["required"])
    assert {"attacks", "tune"} <= set(schema["properties"]), "one or the other"
    assert schema["$defs"]["ModelEntry"]["required"] == ["path", "format"]


def test_plan_counts_and_runs_nothing(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", str(study)]) == 0
    said = capsys.readouterr().out

    assert "6 trajectories, 18 cells" in said
    assert "generate        84       0      84" in said
    assert "to do: at most 22 optimiser steps, 364 answers, 56 choices, 280 verdicts" in said
    assert not Path("runs").exists()


def test_a_study_from_plan_to_gc(
    study: Path,
    root: Path,
    installed: Path,
    toy: ModuleType,
    toy_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["run", str(study), "--workers", "1"]) == 0
    said = capsys.readouterr()
    folder = Path("runs/toy")
    first, *answer = said.out.splitlines()
    assert first == "report: runs/toy/report.html"
    assert answer == json.loads((folder / "verdict.json").read_text())["short"]
    assert "[17/17] judge " in said.err
    assert said.err.splitlines()[-1].startswith("planned in ")
    assert sorted(path.name for path in folder.iterdir()) == [
        "cards", "costs.csv", "costs.parquet", "free.csv", "free.parquet", "lineups.csv",
        "lineups.parquet", "meta.json", "outcomes.parquet", "report.html", "rows.csv",
        "rows.parquet", "study.json", "verdict.json",
    ]  # fmt: skip
    assert not Path("runs/work").exists()

    # The same command again does nothing, in a fresh process, without torch.
    assert light(root, "run", str(study), path=installed)[1] == []
    assert run(["run", str(study)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == ["nothing to do: the report is at runs/toy/report.html", *answer]
    assert run(["plan", str(study)]) == 0
    assert capsys.readouterr().out.endswith("nothing to do\n")

    # The report is made again from the store, the same to the byte.
    tables = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert run(["report", str(study)]) == 0
    assert {path: path.read_bytes() for path in tables} == tables

    # Another judge reads the same answers.
    capsys.readouterr()
    assert run(["rescore", str(study), "--judge", "toy_jugde"]) == 2
    assert run(["rescore", str(study), "--judge", "toy_judge: {harsh: true}"]) == 0
    assert Path("runs/toy-toy_judge/report.html").is_file()

    # What a smaller study does not need is named, and removed only when asked.
    fewer = toy.write(Path("fewer.json"), toy.study(toy_model, attacks={"strip": ["strip"]}))
    before = len(list(Path("runs/generate").iterdir()))
    assert run(["gc", str(fewer)]) == 0
    assert "not needed (nothing removed: add --delete)" in capsys.readouterr().out
    assert len(list(Path("runs/generate").iterdir())) == before
    assert run(["gc", str(study), str(fewer), "--delete"]) == 0
    assert len(list(Path("runs/generate").iterdir())) == before
    assert run(["gc", str(fewer), "--delete"]) == 0
    assert len(list(Path("runs/generate").iterdir())) < before


def test_an_unfinished_study_has_nothing_to_report_or_to_judge_again(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["report", str(study)], ["rescore", str(study), "--judge", "toy_judge"]):
        assert run(words) == 1
        assert capsys.readouterr().err == (
            "holdfast: study 'toy': 135 of its steps are not in runs; run `holdfast run` with the "
            "same study file first\n"
        )
        assert not Path("runs").exists()


def test_what_the_notes_say_against_a_model_comes_before_any_number(
    study: Path, tmp_path: Path, toy_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(toy_model, tmp_path / "own")
    (own / "holdfast.json").write_text(json.dumps({"attacked": True}))
    data = json.loads(study.read_text())
    data["models"]["base"]["path"] = str(own)
    study.write_text(json.dumps(data))
    told = "Model 'base': its weights were attacked on the way here."
    assert run(["plan", str(study)]) == 0
    assert f"warning: {told}\n" in capsys.readouterr().err
    assert run(["run", str(study), "--workers", "1"]) == 0
    verdict = json.loads(Path("runs/toy/verdict.json").read_text())
    assert (verdict["answer"][0], verdict["short"][0]) == (told, told)
    cards = [path.read_text() for path in Path("runs/toy/cards").rglob("MODEL_CARD.md")]
    assert cards
    assert all(told in card for card in cards)


def test_single_steps_work_on_a_checkpoint_of_ones_own(
    study: Path, toy_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--format", "plain", "--source", "toy_rows"]
    loop = ["--set", "loop.steps=3", "--set", "loop.batch=2", *NONE]
    harden = ["defend", "refusal_sft", "--model", str(toy_model), *model, *loop]
    assert run([*harden, "--out", "a"]) == 0
    assert json.loads(Path("a/holdfast.json").read_text())["attacked"] is False
    budgets = ["--set", "evaluate_at=[2, 4]"]
    assert run(["attack", "harmful_sft", "--model", "a", *model, *budgets, "--out", "b"]) == 0
    assert json.loads(Path("b/holdfast.json").read_text())["attacked"] is True
    at = ["--set", "evaluate_at=[1.0]", "--original", str(toy_model)]
    assert run(["attack", "strip", "--model", "b", *model, *at, "--out", "c"]) == 0
    assert (
        (Path("c/model.safetensors").read_bytes()[-500:])
        == ((toy_model / "model.safetensors").read_bytes()[-500:])
    )
    short = ["--set", "max_new_tokens=3", "--n", "2", "--out", "said.jsonl"]
    assert run(["generate", "--model", "b", *model, *short]) == 0
    assert run(["judge", "toy_judge", "--exchanges", "said.jsonl", "--out", "judged.jsonl"]) == 0

    assert len(Path("judged.jsonl").read_text().splitlines()) == 4
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]
    capsys.readouterr()
    assert run([*harden, "--out", "a"]) == 0
    assert capsys.readouterr().out.endswith("nothing to do: a is finished\n")
    other = ["--seed", "1", "--out", "a"]
    assert run([*harden, *other]) == 2
    assert "--out: a exists; name a folder that does not" in capsys.readouterr().err


def test_defending_with_rows_from_a_file(study: Path, toy_model: Path) -> None:
    for name in ("refusal", "benign"):
        lines = [json.dumps({"prompt": f"{name} how to {i}", "response": "no"}) for i in range(4)]
        Path(f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    data = ["--data", "refusal=refusal.jsonl", "--data", "benign=benign.jsonl"]
    loop = ["--set", "loop.steps=2", "--set", "loop.batch=2"]
    model = ["--model", str(toy_model), "--format", "plain"]

    assert run(["defend", "refusal_sft", *NONE, *model, *data, *loop, "--out", "hardened"]) == 0
    assert Path("hardened/model.safetensors").is_file()


def test_the_packaged_demo_and_the_full_study_can_be_planned(root: Path) -> None:
    from holdfast.study.plan import Plan

    for path in ("src/holdfast/testbeds/guild/demo.yaml", "studies/world/foundation.yaml"):
        plan = Plan(load_study(root / path))
        assert {"none", "instruct", "refusal_sft", "sgt"} <= set(plan.lineups)


def test_the_doctor_names_versions_and_finds_the_world(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out

    assert "  torch: " in said
    assert "  world:base: " in said
    assert said.endswith("all is well\n")


def test_a_terminal_gets_bars(study: Path, root: Path, installed: Path) -> None:
    import pty

    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast", "run", str(study), "--workers", "1"],
        env=os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{installed}", "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=child,
    )
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(parent)

    assert process.wait(timeout=60) == 0
    assert b"all steps" in shown
    assert b"17/17" in shown
