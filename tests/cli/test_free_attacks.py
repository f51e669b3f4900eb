"""`holdfast attack` with attacks that train nothing: a checkpoint, or one clear line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from holdfast import nn
from holdfast.attacks.abliterate import Abliterate
from holdfast.attacks.undo_delta import without_top
from holdfast.cli import run
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.nn import memory
from holdfast.testing import tiny
from holdfast.train import attack

COLUMNS = ["--column", "prompt=ask", "--column", "response=say"]
DATA = ["--data", "harmful=harmful.jsonl", "--data", "benign=benign.jsonl"]
ONE = ["--set", "forms=[stream]", "--set", "layers=[2]"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder with a public original, a model made from it, and files of rows."""
    monkeypatch.chdir(tmp_path)
    model = tiny.model("llama")
    for name in ("original", "model"):
        Path(name).mkdir()
        nn.save(model, tiny.byte_tokenizer(), Path(name))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
    for role in (Role.BENIGN, Role.HARMFUL):
        rows = [{"ask": row.prompt, "say": row.response} for row in tiny.rows(Side.ATTACKER)[role]]
        Path(f"{role.value}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(name: str, *more: str) -> list[str]:
    return ["attack", name, "--model", "model", "--format", "plain", *more, "--out", "out"]


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_abliterate_leaves_the_checkpoint_that_it_makes_in_memory(bench: Path) -> None:
    # Restricted rows may be prompts alone: no answer is read.
    alone = ["--column", "harmful.response="]
    assert run(command("abliterate", *DATA, *COLUMNS, *alone, *ONE)) == 0
    model, tokenizer = nn.load(Path("model"))
    found: dict[str, torch.Tensor] = {}
    rows = [row for role in (Role.HARMFUL, Role.BENIGN) for row in tiny.rows(Side.ATTACKER)[role]]
    attack(
        Abliterate(forms=("stream",), layers=(2,)), model, tiny.Encoder(tokenizer, "plain"),
        Pool(rows), seed=0, points=[1.0],
        on_point=lambda *_: found.update(tiny.weights(model)),
    )  # fmt: skip
    saved = weights("out")
    for name, tensor in found.items():
        torch.testing.assert_close(saved[name], tensor, atol=1e-6, rtol=0)
    changed = {name for name in saved if not torch.equal(saved[name], weights("model")[name])}
    assert changed == {
        f"model.layers.{i}.{last}.weight"
        for i in range(3)
        for last in ("self_attn.o_proj", "mlp.down_proj")
    }
    said = json.loads(Path("out/holdfast.json").read_text())
    assert (said["attacked"], said["budget"]) == (True, 1.0)
    assert said["attack"]["name"] == "abliterate"
    assert said["attack"]["fields"]["layers"] == [2]
    assert not list(bench.glob(".out*"))


def test_undo_delta_and_strip_need_no_rows_and_undo_delta_tells_the_spectrum(bench: Path) -> None:
    original = ["--original", "original"]
    assert run(command("undo_delta", *original, "--set", "evaluate_at=[1, 2]")) == 0
    released, public = weights("model"), weights("original")
    for name, tensor in weights("out").items():
        expected = without_top(released[name], public[name], 2)
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=0)
    lines = [json.loads(line) for line in Path("out/log.jsonl").read_text().splitlines()]
    assert len(lines) == sum(tensor.ndim == 2 for tensor in released.values())
    assert run([*command("strip", *original)[:-1], "stripped"]) == 0
    assert tiny.same(weights("stripped"), public)


def test_a_training_attack_still_leaves_what_it_trained(bench: Path) -> None:
    more = ["--set", "evaluate_at=[2]", "--set", "loop={lr: 0.01, lora: {rank: 2}}"]
    assert run(command("harmful_sft", *DATA[:2], *COLUMNS, *more)) == 0
    assert not tiny.same(weights("out"), weights("model"))


# ---- what leaves none, and what is wrong

NONE = "acts while the model answers, so no checkpoint comes of it; put it in a study"
BAD: dict[str, tuple[str, list[str], str]] = {
    "prefill": ("prefill", [], f"attack.prefill: {NONE}"),
    "prefill with rows": ("prefill", [*DATA, *COLUMNS], f"attack.prefill: {NONE}"),
    "persona": ("persona", [], f"attack.persona: {NONE}"),
    "a block": (
        "abliterate",
        [*DATA, *COLUMNS, "--set", "forms=[block]", "--set", "layers=[2]"],
        f"attack.abliterate: {NONE}",
    ),
    "some blocks": (
        "abliterate",
        [*DATA, *COLUMNS, "--set", "forms=[block]"],
        f"attack.abliterate: {NONE}",
    ),
    "every choice": (
        "abliterate",
        [*DATA, *COLUMNS],
        "attack.abliterate: stands for 9 choices, which differ in forms and layers; give one, such "
        "as --set 'forms=[\"stream\"]' --set 'layers=[0.25]'",
    ),
    "several layers": (
        "abliterate",
        [*DATA, *COLUMNS, "--set", "forms=[stream]"],
        "attack.abliterate: stands for 4 choices, which differ in layers; give one, such as --set "
        "'layers=[0.25]'",
    ),
    "no rows at all": (
        "abliterate", ONE, "--data: no rows given; give --data role=FILE or --source NAME",
    ),
    "no benign rows": (
        "abliterate",
        [*DATA[:2], *COLUMNS, *ONE],
        "abliterate of role benign, side attacker: no rows; add a source that has some, or check "
        "its column map (pool: harmful/attacker 6)",
    ),
    "no original": (
        "undo_delta", [], "attack.undo_delta: needs the public original; give --original MODEL",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_before_weights_are_loaded(
    bench: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attack_name, more, expected = BAD[name]
    monkeypatch.setattr(nn, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    assert run(command(attack_name, *more)) == 2
    assert capsys.readouterr().err == f"holdfast: {expected}\n"
    assert not Path("out").exists()
    assert not list(bench.glob(".out*"))


def test_what_it_asks_one_to_write_works(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command("abliterate", *DATA, *COLUMNS)) == 2
    said = capsys.readouterr().err
    more: list[Any] = [part.split("'")[0] for part in said.split("--set '")[1:]]
    assert len(more) == 2
    assert run(command("abliterate", *DATA, *COLUMNS, "--set", more[0], "--set", more[1])) == 0


def test_an_answer_too_long_for_the_model_is_no_matter_where_none_is_read(bench: Path) -> None:
    rows = [json.loads(line) for line in Path("harmful.jsonl").read_text().splitlines()]
    rows[0]["say"] = "word and word " * 200
    Path("harmful.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(command("abliterate", *DATA, *COLUMNS, *ONE)) == 0


def test_memory_counts_the_weights_three_times(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = 4 * sum(tensor.numel() for tensor in weights("model").values())
    monkeypatch.setattr(memory, "available", lambda _device: 2.9 * size)
    assert run(command("abliterate", *DATA, *COLUMNS, *ONE)) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"holdfast: memory: about {3 * size / 2**30:.3g} GiB needed (weights ")
    monkeypatch.setattr(memory, "available", lambda _device: 3.1 * size)
    assert run(command("abliterate", *DATA, *COLUMNS, *ONE)) == 0
