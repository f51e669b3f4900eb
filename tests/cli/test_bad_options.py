"""What may be wrong with a command line: one line that says so, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.cli import run

MODEL = ["--model", "world:instruct", "--format", "plain"]
DATA = ["--data", "refusal=rows.jsonl", "--data", "benign=rows.jsonl"]
DEFEND = ["defend", "refusal_sft", *MODEL, *DATA, "--out", "out"]
INIT = ["init", "made/own.yaml", *MODEL, "--restricted", "rows.jsonl"]
LONG = "a" * 300
COLUMNS = "prompt, response, system, turns, group, category, answer, meta"
TOO_LONG = f"{LONG[:200]}: cannot be written (file name too long); name another"

CASES: dict[str, tuple[list[str], str]] = {
    "defend: name of 300": ([*DEFEND[:-1], LONG], TOO_LONG),
    "defend: model of 300": (
        ["defend", "refusal_sft", "--model", LONG, "--format", "plain", *DATA, "--out", "out"],
        f"--model: no such model folder: {LONG[:200]}; give a folder, world:base or "
        "org/name@COMMIT",
    ),
    "defend: format of 300": (
        [*DEFEND, "--format", f"{LONG}.jinja"],
        f"--format: no such file {LONG[:200]}; check the path",
    ),
    "defend: seed": (
        [*DEFEND, "--seed", "-1"],
        "command line: invalid value for '--seed': Input should be greater than or equal to 0; see "
        "`holdfast --help`",
    ),
    "defend: threads": (
        [*DEFEND, "--threads", "0"],
        "command line: invalid value for '--threads': Input should be greater than or equal to 1; "
        "see `holdfast --help`",
    ),
    "defend: rows kept back": (
        [*DEFEND, "--held-out", "-3"],
        "command line: invalid value for '--held-out': Input should be greater than or equal to 0; "
        "see `holdfast --help`",
    ),
    "defend: dtype": (
        [*DEFEND, "--dtype", "fp8"],
        "--dtype: no dtype 'fp8'; known: base, bf16, fp16, fp32",
    ),
    "defend: date": (
        [*DEFEND, "--date", "today"],
        "--date: got 'today'; it should be a day, such as 2024-07-26",
    ),
    "defend: variable": (
        [*DEFEND, "--template-var", "x"],
        "--template-var: got 'x'; write name=value",
    ),
    "defend: role": (
        [*DEFEND, "--data", "refusals=rows.jsonl"],
        "--data.local.role: got 'refusals'; it should be 'refusal', 'harmful', 'benign' or 'task'",
    ),
    "defend: no role": (
        [*DEFEND, "--data", "rows.jsonl"],
        "--data: got 'rows.jsonl'; write role=FILE",
    ),
    "defend: no file": (
        [*DEFEND, "--data", "task=none.jsonl"],
        "none.jsonl: no such file; check the path",
    ),
    "defend: a folder": (
        [*DEFEND, "--data", "task=folder"],
        "folder: is a folder; name a file in it",
    ),
    "defend: no column's name": (
        [*DEFEND, "--column", "prompt"],
        f"--column: got 'prompt'; write prompt=NAME or role.prompt=NAME, one of {COLUMNS}",
    ),
    "defend: misspelt column": (
        [*DEFEND, "--column", "promt=x"],
        f"--column: got 'promt=x'; write prompt=NAME or role.prompt=NAME, one of {COLUMNS}",
    ),
    "defend: misspelt source": (
        [*DEFEND, "--source", "wrld"],
        "--source: no source 'wrld'; did you mean 'world'?",
    ),
    "defend: a rate that is no number": (
        [*DEFEND, "--set", "loop.lr=.nan"],
        "defend.refusal_sft.loop.lr: got nan; it should be a finite number",
    ),
    "defend: a field inside a number": (
        [*DEFEND, "--set", "loop.lora.rank.x=1"],
        "defend.refusal_sft.loop.lora.rank: got {'x': 1}; it should be a valid integer",
    ),
    "defend: a group that is a number": (
        [*DEFEND, "--set", "loop=1"],
        "defend.refusal_sft.loop: got 1; it should be fields, such as {name: value}",
    ),
    "defend: no refusal to teach": (
        ["defend", "sgt", *DEFEND[2:], "--set", "refusal=[]"],
        "defend.sgt.refusal: got []; it should be a valid string or a list with at least 1 in it",
    ),
    "defend: layers that fall": (
        ["defend", "sgt", *DEFEND[2:], "--set", "align.layers=[0.9, 0.1]"],
        "defend.sgt.align.layers: got [0.9, 0.1]; it should be two shares that rise, such as "
        "[0.5, 1.0]",
    ),
    "defend: a file for a model": (
        ["defend", "refusal_sft", "--model", "rows.jsonl", *DEFEND[4:]],
        "--model: rows.jsonl is a file; give the folder of a model, or a .gguf",
    ),
    "defend: into this folder": (
        [*DEFEND[:-1], "."],
        "--out: '.' holds other things; name a folder to be made in it",
    ),
    "drift: no such model": (
        ["kitchen", "drift", "--model", "./none"],
        "--model: no such model folder: ./none; give a folder, world:base or org/name@COMMIT",
    ),
    "drift: format": (
        ["kitchen", "drift", "--model", "./none", "--format", "fancy"],
        "--format: unknown format 'fancy'; write plain, chat, or the path of a .jinja file",
    ),
    "table: no such folder": (
        ["table", "folder"],
        "folder: holds no outcomes.parquet; give the folder that a finished `holdfast run` wrote "
        "its report to",
    ),
    "defend: no field's name": ([*DEFEND, "--set", "=1"], "--set: got '=1'; write name=value"),
    "defend: broken YAML": (
        [*DEFEND, "--set", "loop.lr=["],
        "--set loop.lr:1: expected the node content, but found '<stream end>'; mend the YAML there",
    ),
    "defend: device": (
        [*DEFEND, "--device", "tpu"],
        "--device: no device 'tpu'; use cpu, cuda or cuda:N",
    ),
    "attack: misspelt": (
        ["attack", "harmful_stf", *MODEL, *DATA, "--out", "out"],
        "attack: no attack 'harmful_stf'; did you mean 'harmful_sft'?",
    ),
    "generate: over a folder": (
        ["generate", *MODEL, "--prompts", "rows.jsonl", "--out", "folder"],
        "--out: folder is a folder; name a file",
    ),
    "generate: over its prompts": (
        ["generate", *MODEL, "--prompts", "rows.jsonl", "--out", "./rows.jsonl"],
        "--out: rows.jsonl is the file that is read; name another",
    ),
    "judge: over its answers": (
        ["judge", "refusal_keywords", "--exchanges", "rows.jsonl", "--out", "rows.jsonl"],
        "--out: rows.jsonl is the file that is read; name another",
    ),
    "calibrate: over its labels": (
        ["calibrate", "refusal_keywords", "--on", "rows.jsonl", "--out", "rows.jsonl"],
        "--out: rows.jsonl is the file that is read; name another",
    ),
    "plan: name of 300": (
        ["plan", LONG],
        f"{LONG[:200]}: cannot be read (file name too long); check it",
    ),
    "plan: a folder": (["plan", "folder"], "folder: is a folder; name a YAML file"),
    "plan: a card without an estimate": (
        ["plan", "rows.jsonl", "--card", "cpu"],
        "--card: belongs to an estimate; add --estimate",
    ),
    "verify: no store": (["verify", "none"], "none: no such store; name the folder of one"),
    "verify: no store's folder": (
        ["verify", "folder"],
        "folder: holds no finished step; name the folder that --store named",
    ),
    "defend: one file for both roles": (
        DEFEND,
        "--data: 22 of 22 benign prompts are to be refused too; take them out of one of the files",
    ),
    "verify: a file": (
        ["verify", "rows.jsonl"],
        "rows.jsonl: no such store; name the folder of one",
    ),
    "init: purpose": (
        [*INIT, "--for", "x"],
        "--for: no purpose 'x'; known: assess, compare, harden",
    ),
    "init: budget": (
        [*INIT, "--budget", "x"],
        "--budget: no budget 'x'; known: cheap, free, full, standard",
    ),
    "init: a place that takes no files": (
        ["init", "/proc/1/own.yaml", *INIT[2:]],
        "/proc/1/own.yaml: cannot be written (/proc/1 takes no files); check the folder and its "
        "rights",
    ),
    "init: too few requests": (
        [*INIT, "--column", "prompt=response"],
        "rows.jsonl: 1 different restricted requests; give at least 12, better 30: attacker and "
        "evaluator must not share any",
    ),
    "assess: the model's folder": (
        ["assess", "folder", "--out", "folder", "--restricted", "rows.jsonl"],
        "--out: folder is the model's own folder; name another",
    ),
    "new: kind": (
        ["new", "thing", "x"],
        "thing: no such kind of method; known: attack, defence, judge, source",
    ),
    "new: name": (
        ["new", "defence", "Bad-Name"],
        "Bad-Name: is no name for a method; use small letters, digits and _",
    ),
    "new: a place that takes no files": (
        ["new", "defence", "mine", "--out", "/proc/1/x"],
        "/proc/1/x/pyproject.toml: cannot be written (/proc/1 takes no files); check the folder "
        "and its rights",
    ),
    "schema": (["schema", "x"], "schema: no kind of file 'x'; known: study, trials"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_option_is_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "".join(f'{{"prompt": "prompt {i}", "response": "no"}}\n' for i in range(30))
    Path("rows.jsonl").write_text(text)
    Path("folder").mkdir()
    words, line = CASES[case]

    assert (run(words), capsys.readouterr().err) == (2, f"holdfast: {line}\n")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "rows.jsonl"]
    assert Path("rows.jsonl").read_text() == text
    assert list(Path("folder").iterdir()) == []
