"""`holdfast tune`: one customer's job on a checkpoint of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from holdfast import nn
from holdfast.cli import run
from holdfast.data.example import Role
from holdfast.testing import tiny

SMALL = ["--set", "loop={steps: 4, batch: 2, lr: 0.01, lora: null, checkpoint_every: 2}"]


def write(path: Path, rows: list[Any]) -> None:
    lines = [{"prompt": row.prompt, "response": row.response} for row in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    nn.save(tiny.model("llama"), tiny.byte_tokenizer(bos=True), Path("model"))
    for role in (Role.REFUSAL, Role.BENIGN):
        write(Path(f"{role.value}.jsonl"), tiny.rows()[role])
    write(Path("rows.jsonl"), tiny.customer())
    return tmp_path


def tune(name: str, *more: str, out: str = "out") -> list[str]:
    return [
        *("tune", name, "--model", "model", "--format", "plain", "--data", "task=rows.jsonl"),
        *SMALL, *more, "--out", out,
    ]  # fmt: skip


OWN = ["--data", "refusal=refusal.jsonl", "--data", "benign=benign.jsonl"]


def test_a_job_ends_as_a_plain_checkpoint_that_says_how_it_was_tuned(bench: Path) -> None:
    assert run(tune("adaptive_kl", "--risk", "probe", *OWN)) == 0
    model = AutoModelForCausalLM.from_pretrained("out")
    assert not torch.equal(model.lm_head.weight, tiny.model("llama").lm_head.weight)
    said = json.loads(Path("out/holdfast.json").read_text())
    assert said["tuned"] is True
    assert said["rows"] == {"task": 12}
    assert said["defences"][0]["name"] == "adaptive_kl"
    assert set(json.loads(Path("out/diagnostics.json").read_text())) == {
        "risky", "weight_removed", "failed",
    }  # fmt: skip
    assert json.loads(Path("out/probe/probe.json").read_text())["width"] == 16
    card = Path("out/MODEL_CARD.md").read_text()
    assert "## Tuning\n\nTuned on a customer's rows under adaptive_kl" in card
    assert "Nobody who holds the weights and trains without this defence is held by it." in card
    log = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert {"beta_mean", "risk_mean", "task_mean", "kl_mean"} <= set(log[-1] | log[-2])
    again = ["--risk", "{kind: probe, path: out/probe}"]
    assert run(tune("adaptive_kl", *again, *OWN, out="again")) == 0
    first, second = (load_file(f"{one}/model.safetensors") for one in ("out", "again"))
    assert tiny.same(first, second)


def test_a_defence_without_rows_of_its_own_needs_the_customers_alone(bench: Path) -> None:
    assert run(tune("static_kl")) == 0
    assert run(tune("plain_tuning", out="plain")) == 0


def test_it_says_how_often_each_row_is_met(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = len(tiny.customer())
    assert run(tune("plain_tuning")) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        f"4 steps of 2: each of the customer's {number} rows at most once, {number - 8} never "
        "(--set loop.steps=N)"
    )
    assert run(tune("plain_tuning", "--set", "loop.steps=12", out="more")) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        f"12 steps of 2: each of the customer's {number} rows about {24 / number:.3g} times "
        "(--set loop.steps=N)"
    )


def test_a_probe_that_saw_no_system_prompt_is_warned_of(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    lines[0]["system"] = "placeholder system prompt"
    Path("rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(tune("adaptive_kl", *OWN, "--risk", "probe")) == 0
    assert (
        f"warning: 1 of the customer's {len(lines)} rows have a system prompt, and none that the "
        "probe is fitted to has: where that was measured, it found no risky row under one "
        "(docs/tuning.md)"
    ) in capsys.readouterr().err


def test_the_same_command_on_a_finished_folder_does_nothing(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tune("plain_tuning")) == 0
    made = Path("out/model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert run(tune("plain_tuning")) == 0
    assert capsys.readouterr().out == "nothing to do: out is finished\n"
    assert Path("out/model.safetensors").stat().st_mtime_ns == made
    assert run(tune("plain_tuning", "--seed", "1")) == 2
    assert capsys.readouterr().err == ("holdfast: --out: out exists; name a folder that does not\n")


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_read(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert run(tune("plain_tuning", "--model", "nowhere", out="file/out")) == 2
    assert capsys.readouterr().err == (
        "holdfast: file/out: cannot be written (not a directory); check the folder and its rights\n"
    )


def see(folder: Path) -> None:
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vision_config": {"depth": 1}}))


def other_tokenizer(folder: Path) -> None:
    (folder / "other").mkdir()
    nn.save(tiny.model("llama"), tiny.merging_tokenizer(":"), folder / "other")


@pytest.mark.parametrize(
    ("change", "command", "line"),
    [
        (
            None,
            ["tune", "static_kl", "--model", "model", "--format", "plain", "--out", "out"],
            "--data: has no rows of the customer's; give --data task=FILE",
        ),
        (
            None,
            tune("refusal_sft"),
            "refusal_sft: acts at stage 'align', not while a customer trains; harden the model "
            "with it first (`holdfast defend`), then tune",
        ),
        (
            None,
            tune("adaptive_kl", "--risk", "probe", "--set", "risk.step=0.5"),
            "--risk: is given in --set too; keep one",
        ),
        (
            None,
            tune("adaptive_kl"),
            "adaptive_kl.risk.probe: has no risky row, so fewer than two classes to fit; "
            "give the defender refusal and benign rows",
        ),
        (
            see,
            tune("static_kl"),
            "--model: is asked to tune a vision-language checkpoint, whose pictures no critic "
            "reads; use a checkpoint of text alone",
        ),
        (
            other_tokenizer,
            tune("static_kl", "--reference", "other"),
            "--reference: has another tokenizer than the model; use one of the same family",
        ),
    ],
)
def test_bad_input_is_one_line(
    change: Callable[[Path], None] | None,
    command: list[str],
    line: str,
    bench: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if change is not None:
        change(bench)
    assert run(command) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"holdfast: {line}"


def test_hardening_with_a_defence_of_this_stage_is_one_line(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["defend", *tune("static_kl")[1:]]
    assert run(command) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "holdfast: static_kl: acts while a customer's rows are trained on; "
        "use `holdfast tune`, or holdfast.train.tune"
    )
