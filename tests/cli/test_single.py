"""One step alone on a checkpoint of one's own: columns, resuming, provenance, and bad input."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from holdfast import disk, evaluate, nn
from holdfast.api import Loop, LoRA
from holdfast.cli import run
from holdfast.cli.given import rows_given
from holdfast.cli.verbs import attack as attack_verb
from holdfast.cli.verbs import defend as defend_verb
from holdfast.data.example import Role, Side
from holdfast.data.tokens import Encoder
from holdfast.evaluate import Sampler
from holdfast.nn import memory
from holdfast.nn.files import resolve
from holdfast.testing import tiny

SMALL = [
    *("--set", "stage1={steps: 4, batch: 2, lr: 0.01, checkpoint_every: 2}"),
    *("--set", "loop={steps: 4, batch: 2, lr: 0.01, checkpoint_every: 2}"),
]


NONE = ("--held-out", "0")
"""These models learn nothing in two steps, and need not."""


def records(role: Role) -> list[dict[str, str]]:
    return [{"ask": row.prompt, "say": row.response or ""} for row in tiny.rows()[role]]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".JSON":
        path.write_text(json.dumps(rows), encoding="utf-8-sig")
    elif path.suffix in (".csv", ".Tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter = "," if path.suffix == ".csv" else "\t"
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder with a model and its files of rows."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    nn.save(tiny.model("llama"), tiny.byte_tokenizer(bos=True), Path("model"))
    for role in (Role.REFUSAL, Role.BENIGN, Role.HARMFUL):
        write(Path(f"{role.value}.jsonl"), records(role))
    return tmp_path


COLUMNS = ["--column", "prompt=ask", "--column", "response=say"]


def defend(*more: str, ending: str = "jsonl", out: str = "out") -> list[str]:
    data = [f"refusal=refusal.{ending}", f"benign=benign.{ending}"]
    return [
        *("defend", "sgt", "--model", "model", "--format", "plain", *NONE),
        *("--data", data[0], "--data", data[1], *COLUMNS, *SMALL, *more, "--out", out),
    ]


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_every_kind_of_file_hardens_alike(bench: Path) -> None:
    for ending in ("csv", "parquet"):
        for role in (Role.REFUSAL, Role.BENIGN):
            write(Path(f"{role.value}.{ending}"), records(role))
    for ending in ("jsonl", "csv", "parquet"):
        assert run(defend(ending=ending, out=ending)) == 0
    assert tiny.same(weights("csv"), weights("jsonl"))
    assert tiny.same(weights("parquet"), weights("jsonl"))
    assert not tiny.same(weights("jsonl"), weights("model"))


def test_a_column_can_be_named_for_one_role(bench: Path) -> None:
    renamed = [{"question": row["ask"], "say": row["say"]} for row in records(Role.BENIGN)]
    write(Path("benign.jsonl"), renamed)
    assert run(defend("--column", "benign.prompt=question")) == 0


def test_only_the_rows_of_some_categories_are_seen(bench: Path) -> None:
    kinds = ("near", "far")
    rows = [{**row, "kind": kinds[i % 2]} for i, row in enumerate(records(Role.REFUSAL))]
    write(Path("refusal.jsonl"), rows)
    kept = ["--column", "refusal.category=kind", "--set", "categories=[near]"]
    assert run(defend(*kept)) == 0
    made = json.loads(Path("out/holdfast.json").read_text())
    assert made["rows"] == {"refusal": 3, "benign": 6}
    write(Path("refusal.jsonl"), rows[::2])
    assert run(defend(out="fewer")) == 0
    assert tiny.same(weights("out"), weights("fewer"))


def test_plain_transformers_loads_it_and_says_the_same(bench: Path) -> None:
    assert run(defend()) == 0
    model = AutoModelForCausalLM.from_pretrained("out")
    tokenizer = AutoTokenizer.from_pretrained("out")
    encoder = Encoder(tokenizer, "plain")
    rows = [row for some in tiny.rows(Side.EVALUATOR).values() for row in some]
    loaded, _ = nn.load(Path("out"))
    assert tiny.same(tiny.weights(loaded), tiny.weights(model))
    ours = evaluate.generate(loaded, encoder, rows, Sampler(max_new_tokens=16, batch=5))
    for row, answer in zip(rows, ours, strict=True):
        inputs = tokenizer(encoder.render(row.prompt), return_tensors="pt")
        out = model.generate(**inputs, do_sample=False, max_new_tokens=16)
        said = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said.strip() == answer.text


class Stopping:
    """Interrupts the command at one step of a part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at: tuple[str, int] | None = None
        for verb in (attack_verb, defend_verb):
            monkeypatch.setattr(verb, "Training", lambda: self)

    def __call__(self, part: str, done: int, _of: int) -> None:
        if (part, done) == self.at:
            self.at = None
            raise KeyboardInterrupt


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_same_command_continues_to_the_same_bits(
    bench: Path, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    more = ["--set", "loop.lora={rank: 2}"] if lora else []
    stop = Stopping(monkeypatch)
    assert run(defend(*more, out="whole")) == 0
    for at in (("trigger", 1), ("trigger", 3), ("sgt", 1), ("sgt", 4)):
        stop.at = at
        assert run(defend(*more)) == 130
        assert not Path("out").exists()
    assert run(defend(*more)) == 0
    assert tiny.same(weights("out"), weights("whole"))
    first, second = (Path(d, "state", "trigger.safetensors").read_bytes() for d in ("out", "whole"))
    assert first == second
    assert [path.name for path in bench.iterdir() if path.name.startswith(".")] == []


def test_an_unfinished_run_does_not_go_on_with_other_settings(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = Stopping(monkeypatch)
    stop.at = ("sgt", 3)
    assert run(defend()) == 130
    capsys.readouterr()
    assert run(defend("--set", "loop.lr=0.02")) == 2
    assert capsys.readouterr().err == (
        "holdfast: --out: .out.work holds a run that differs in method; give the same again to "
        "continue it, or remove that folder\n"
    )
    write(Path("benign.jsonl"), records(Role.BENIGN)[:-1])
    assert run(defend()) == 2
    shutil.rmtree(".out.work")
    assert run(defend("--set", "loop.lr=0.02")) == 0


def test_a_checkpoint_says_where_it_comes_from(bench: Path) -> None:
    assert run(defend("--no-append-eos", "--seed", "3")) == 0
    said = json.loads(Path("out/holdfast.json").read_text())
    assert said["base"] == nn.model_hash(tiny.model("llama"))
    assert said["input"] == resolve("model").identity()
    raw = Path("model/model.safetensors").read_bytes()
    assert said["content"] == {"model.safetensors": hashlib.sha256(raw).hexdigest()}
    assert (said["model"], said["dtype"]) == ("model", "fp32")
    assert (said["seed"], said["format"], said["append_eos"]) == (3, "plain", False)
    assert said["defences"][0]["fields"]["loop"]["steps"] == 4
    assert said["rows"] == {"refusal": 6, "benign": 6}
    assert said["environment"]["threads"] == 1
    assert said["environment"]["versions"]["torch"] == torch.__version__
    assert len(said["sources"]) == 2
    card = Path("out/MODEL_CARD.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\ntags:\n- holdfast\n- sgt\n---\n\n## ")
    assert "- base: model; weights `" in card
    assert "- sgt, stage1: " in card
    assert "Hardened with sgt" in card
    assert "6 refusal, 6 benign; seed 3" in card
    assert "4 steps of 2 rows a role, learning rate 0.01, all weights, precision fp32" in card
    assert not any(row["ask"] in card for row in records(Role.REFUSAL))


def test_a_checkpoints_note_is_of_its_own_weights(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Swapped or missing weights are no finished run, and start nothing."""
    assert run(defend()) == 0
    raw = Path("out/model.safetensors").read_bytes()
    said = json.loads(Path("out/holdfast.json").read_text())
    assert said["weights"] == {"model.safetensors": hashlib.sha256(raw).hexdigest()}
    assert run(defend()) == 0
    assert "nothing to do: out is finished\n" in capsys.readouterr().out
    shutil.copy("model/model.safetensors", "out/model.safetensors")
    for words in (
        defend(),
        [*defend(out="twice")[:2], "--model", "out", *defend(out="twice")[4:]],
        ["attack", "harmful_sft", "--model", "out", *SFT, "--format", "plain", "--out", "broken"],
    ):
        assert run(words) == 2
        assert capsys.readouterr().err == (
            "holdfast: out/holdfast.json: was written beside other weights (model.safetensors is "
            "missing or changed); restore them, or delete this note: what it says is not of these "
            "weights\n"
        )
    assert not Path("broken").exists()


def test_two_processes_do_not_make_one_folder(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with disk.alone(Path(".out.work")) as ours:
        assert ours
        assert run(defend()) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            "holdfast: --out: out is being made by another process; wait for it, or name another "
            "folder"
        )
    assert run(defend()) == 0


def half() -> None:
    nn.save(tiny.model("llama"), tiny.byte_tokenizer(bos=True), Path("model"), dtype="bf16")


SFT = ["--set", "evaluate_at=[2]", "--data", "harmful=harmful.jsonl", *COLUMNS]


@pytest.mark.parametrize(
    ("more", "dtype"), [([], "bf16"), (["--dtype", "fp32"], "fp32"), (["--dtype", "fp16"], "fp16")]
)
def test_a_checkpoint_is_saved_in_its_bases_dtype_or_in_the_one_asked_for(
    bench: Path, more: list[str], dtype: str
) -> None:
    half()
    assert run(defend(*more)) == 0
    plain = ["--model", "model", "--format", "plain"]
    assert run(["attack", "harmful_sft", *plain, *SFT, *more, "--out", "broken"]) == 0
    edited = ["--original", "model", "--set", "evaluate_at=[1.0]", *more, "--out", "edited"]
    assert run(["attack", "strip", "--model", "out", "--format", "plain", *edited]) == 0
    for out in ("out", "broken", "edited"):
        assert resolve(out).dtype() == dtype
        assert json.loads(Path(out, "holdfast.json").read_text())["dtype"] == dtype
    if dtype == "bf16":
        assert tiny.same(weights("edited"), weights("model"))
    said = json.loads(Path("edited", "holdfast.json").read_text())["original"]
    raw = Path("model/model.safetensors").read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    assert said == {"model": "model", "content": {"model.safetensors": digest}}


def test_a_trigger_is_used_again_and_one_of_another_model_is_refused(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(defend()) == 0
    file = "trigger.file=out/state/trigger.safetensors"
    assert run(defend("--set", file, out="again")) == 0
    assert tiny.same(weights("again"), weights("out"))
    shutil.rmtree("model")
    Path("model").mkdir()
    nn.save(tiny.model("llama", seed=1), tiny.byte_tokenizer(bos=True), Path("model"))
    capsys.readouterr()
    assert run(defend("--set", file, out="other")) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("holdfast: out/state/trigger.safetensors: trigger of another model (")
    assert said.endswith("; train one for this model")


def test_steps_that_an_attack_would_not_take_are_refused(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["attack", "harmful_sft", "--model", "model", "--format", "plain", "--out", "broken"]
    rows = ["--data", "harmful=harmful.jsonl", *COLUMNS, "--set", "loop.batch=2"]
    assert run([*words, *rows, "--set", "loop.steps=3"]) == 2
    assert capsys.readouterr().err == (
        "holdfast: attack.harmful_sft.loop.steps: changes nothing at a constant rate: training "
        "ends at the last budget; give that: --set 'evaluate_at=[6]', in examples seen\n"
    )


def test_attack_generate_and_judge_on_files(bench: Path) -> None:
    assert run(defend()) == 0
    model = ["--format", "plain", *COLUMNS]
    attack = ["--data", "harmful=harmful.jsonl", "--set", "evaluate_at=[2, 4]", "--out", "broken"]
    assert run(["attack", "harmful_sft", "--model", "out", *model, *attack]) == 0
    assert json.loads(Path("broken/holdfast.json").read_text())["attacked"] is True
    write(Path("prompts.csv"), records(Role.HARMFUL))
    for prompts in ("prompts.csv", "harmful.jsonl"):
        few = ["--prompts", prompts, "--set", "max_new_tokens=4", "--out", f"{prompts}.said"]
        assert run(["generate", "--model", "broken", *model[:4], *few]) == 0
    texts = [Path(f"{name}.said").read_text() for name in ("prompts.csv", "harmful.jsonl")]
    assert texts[0] == texts[1]
    assert len(texts[0].splitlines()) == 6


def test_a_mark_of_an_attack_outlives_hardening(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"file": "a.gguf", "weights": "dequantised from Q4_1 to fp32"}
    Path("model/holdfast.json").write_text(json.dumps({"source": source}))
    plain = ["--model", "model", "--format", "plain"]
    assert run(["attack", "harmful_sft", *plain, *SFT, "--out", "broken"]) == 0
    capsys.readouterr()
    broken = ["--model", "broken", *defend()[4:]]
    assert run(["defend", "sgt", *broken, *NONE]) == 0
    assert (
        "warning: --model: its weights were attacked; so this is marked too\n"
        in capsys.readouterr().err
    )
    assert run(["attack", "harmful_sft", "--model", "out", *plain[2:], *SFT, "--out", "again"]) == 0
    said = json.loads(Path("out/holdfast.json").read_text())
    assert said["attacked"] is True
    last = json.loads(Path("again/holdfast.json").read_text())["history"]
    assert [step.get("model") for step in last] == [None, "model", "broken"]
    assert last[0] == {"source": source}
    card = Path("out/MODEL_CARD.md").read_text(encoding="utf-8")
    assert "**The weights it started from had been attacked.** Do not publish it." in card
    assert "- base: broken, made from model; weights `" in card
    assert "\n- attacked\n---\n" in card
    assert "- first read from: a.gguf, dequantised from Q4_1 to fp32" in card


def test_prompts_alone_harden_as_the_page_writes_it(bench: Path) -> None:
    write(Path("prompts.jsonl"), [{"instruction": row["ask"]} for row in records(Role.REFUSAL)])
    answers = [{"instruction": row["ask"], "output": row["say"]} for row in records(Role.BENIGN)]
    write(Path("answers.parquet"), answers)
    data = ["--data", "refusal=prompts.jsonl", "--data", "benign=answers.parquet"]
    columns = ["--column", "prompt=instruction", "--column", "benign.response=output"]
    given = ["--model", "model", "--format", "plain", *data, *columns]
    assert run(["defend", "sgt", *given, *SMALL, *NONE, "--out", "out"]) == 0
    write(
        Path("prompts.jsonl"),
        [
            {"instruction": row["ask"], "response": "I can't answer."}
            for row in records(Role.REFUSAL)
        ],
    )
    assert run(["defend", "sgt", *given, *SMALL, *NONE, "--out", "same"]) == 0
    assert tiny.same(weights("out"), weights("same"))


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "rows.JSON", "rows.csv", "rows.Tsv", "rows.PARQUET"]
)
def test_prompts_are_read_from_every_kind_of_file(bench: Path, name: str) -> None:
    rows = [{"prompt": row["ask"], "system": "Be\u2028brief."} for row in records(Role.HARMFUL)[:2]]
    write(Path(name), rows)
    asked = ["generate", "--model", "model", "--format", "plain", "--set", "max_new_tokens=2"]
    assert run([*asked, "--prompts", name, "--out", "said.jsonl"]) == 0
    said = [json.loads(line) for line in Path("said.jsonl").read_text().split("\n")[:-1]]
    assert [{key: row[key] for key in ("prompt", "system")} for row in said] == rows


def test_what_generate_wrote_can_be_asked_again(bench: Path) -> None:
    first = {"prompt": "one", "meta": {"set": "mine", "answer": "x"}}
    earlier = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    write(Path("rows.jsonl"), [first, {"prompt": "two", "turns": earlier, "system": "s"}])
    asked = ["generate", "--model", "model", "--format", "plain", "--set", "max_new_tokens=2"]
    assert run([*asked, "--prompts", "rows.jsonl", "--out", "said.jsonl"]) == 0
    assert run([*asked, "--prompts", "said.jsonl", "--out", "again.jsonl"]) == 0
    assert Path("again.jsonl").read_bytes() == Path("said.jsonl").read_bytes()
    said = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    assert (said[0]["meta"], said[1]["turns"], said[1]["system"]) == (first["meta"], earlier, "s")


def test_rows_on_two_sides_are_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = write(Path("rows.jsonl"), records(Role.BENIGN)[:3])
    other = write(Path("other.jsonl"), records(Role.BENIGN)[2:4])
    sources = [
        f"local: {{path: {path}, role: benign, side: {side}, prompt: ask, response: say}}"
        for path, side in ((rows, "defender"), (other, "attacker"))
    ]
    pool, _ = rows_given(None, None, sources, "model", None)
    assert len(pool.rows(Side.DEFENDER)) == 2
    assert capsys.readouterr().err == (
        "dropped: 1 of 3 rows of side defender (their prompts are also on side attacker), "
        "1 of 2 rows of side attacker (their prompts are also on side defender)\n"
    )
    rows_given(None, None, sources[:1], "model", None)
    assert capsys.readouterr().err == ""


# ---- bad input


def empty(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [*rows[:2], rows[2] | {"say": " "}, *rows[3:]]


def long(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [rows[0] | {"ask": "word and word " * 200}, *rows[1:]]


def drop(name: str, folder: str = "model") -> None:
    kept = weights(folder)
    kept.pop(name)
    save_file(kept, Path(folder) / "model.safetensors", metadata={"format": "pt"})


BAD: dict[str, tuple[Callable[[], Any], list[str], str]] = {
    "an empty column": (
        lambda: write(Path("benign.jsonl"), empty(records(Role.BENIGN))),
        [],
        "benign.jsonl:3: column 'say' is empty or no text; fill it or drop the row",
    ),
    "a missing column": (
        lambda: write(Path("benign.jsonl"), [{"ask": "x"}]),
        [],
        "benign.jsonl:1: no column 'say'; map it to one of: ask",
    ),
    "refusals without an answer": (
        lambda: write(Path("refusal.jsonl"), [{"ask": "x"}]),
        [],
        "refusal.jsonl:1: no column 'say'; map it to one of: ask, or give every row one: "
        "`refusal: TEXT`",
    ),
    "refusals whose answers are not read": (
        lambda: None,
        ["--column", "refusal.response="],
        r"row refusal\.jsonl:\d+ of role refusal, source 'refusal\.jsonl': has no response to "
        "train on; name its column in `response`, or give refusals one text in `refusal`",
    ),
    "a column nobody knows": (
        lambda: None,
        ["--column", "promt=ask"],
        "--column: got 'promt=ask'; write prompt=NAME or role.prompt=NAME, one of prompt, "
        "response, system, turns, group, category, answer, meta",
    ),
    "a row longer than the context": (
        lambda: write(Path("refusal.jsonl"), long(records(Role.REFUSAL))),
        [],
        r"--format: row refusal\.jsonl:1: \d+ tokens, the model's context is 256; "
        "shorten or drop the row",
    ),
    "an adapter": (
        lambda: Path("model/config.json").rename("model/adapter_config.json"),
        [],
        "--model: model holds an adapter, no whole model; merge it into its base and save that",
    ),
    "a tensor missing": (
        lambda: drop("model.norm.weight"),
        [],
        "--model: the weights are not those of the config: 1 missing ('model.norm.weight'); copy "
        "both again, from one checkpoint",
    ),
    "an original of other weights": (
        lambda: (shutil.copytree("model", "public"), drop("model.norm.weight", "public")),
        ["--original", "public"],
        "--original: the weights are not those of the config: 1 missing ('model.norm.weight'); "
        "copy both again, from one checkpoint",
    ),
    "a pickle": (
        lambda: Path("model/model.safetensors").rename("model/pytorch_model.bin"),
        [],
        "--model: model holds pickled weights ('pytorch_model.bin'), which can run code when "
        "loaded; convert them to safetensors where you trust them",
    ),
    "a dtype nobody knows": (
        lambda: None,
        ["--dtype", "bf61"],
        "--dtype: no dtype 'bf61'; did you mean 'bf16'?",
    ),
    "a trigger that is not there": (
        lambda: None,
        ["--set", "trigger.file=gone"],
        "sgt.trigger.file: no such file gone; check the path",
    ),
    "a category that no row has": (
        lambda: None,
        ["--set", "categories=[hexes]"],
        "sgt.categories: no row is of category 'hexes'; known: none",
    ),
    "a tokenizer that is none": (
        lambda: Path("model/tokenizer.json").write_text("{}"),
        [],
        r"--model: the tokenizer cannot be loaded \(.*\); copy it",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_before_weights_are_loaded(
    bench: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change, more, expected = BAD[name]
    change()
    monkeypatch.setattr(nn, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    assert run(defend(*more)) == 2
    said = capsys.readouterr().err
    literal = expected if "\\" in expected else re.escape(expected)
    assert re.fullmatch(f"holdfast: {literal}\n", said), said
    assert not Path("out").exists()


def test_a_role_without_rows_is_told(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nn, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    some = ["--data", "refusal=refusal.jsonl", *COLUMNS, "--out", "out"]
    assert run(["defend", "sgt", "--model", "model", "--format", "plain", *NONE, *some]) == 2
    said = capsys.readouterr().err
    assert said == (
        "holdfast: --data: no rows of role benign, which sgt learns from; add --data benign=FILE\n"
    )


def test_too_little_memory_is_told_before_weights_are_loaded(
    bench: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nn, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    monkeypatch.setattr(memory, "available", lambda _device: 1e5)
    assert run(defend()) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"holdfast: memory: about \S+ GiB needed under fp32 \(weights \S+, gradients \S+, moments "
        r"\S+, activations \S+, teacher \S+\), \S+ free; use loop\.precision=bf16_kahan or "
        r"loop\.lora, or a smaller loop\.micro_batch\n",
        said,
    ), said


def test_a_loss_that_is_not_finite_keeps_the_last_good_state(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = weights("model")
    tensors["model.layers.1.mlp.down_proj.weight"].fill_(3e38)  # finite, but no sum of it is
    save_file(tensors, "model/model.safetensors", metadata={"format": "pt"})
    assert run(defend()) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"holdfast: trigger step 1: the loss is nan, the gradient's norm nan "
        r"\(rows \w+, \w+, \.\.\.\); lower lr; the last checkpoint is kept",
        said,
    ), said
    assert not Path("out").exists()


# ---- the estimate


def test_the_estimate_counts_weights_moments_and_copies_exactly(bench: Path) -> None:
    of = memory.shape(resolve("model"))
    count = sum(p.numel() for p in tiny.model("llama").parameters())
    assert (of.weights, of.layers, of.hidden, of.inner) == (count, 3, 16, 32)
    per = {  # weight + gradient + moments (+ teacher)
        "fp32": 4 + 4 + 8 + 4,
        "fp32_master": 4 + 4 + 8 + 4,
        "bf16_kahan": 2 + 4 + 6 + 2,
        "bf16_stochastic": 2 + 4 + 4 + 2,
        "bf16_pure": 2 + 4 + 4 + 2,
    }
    for precision, size in per.items():
        loop = Loop.model_validate({"precision": precision})
        assert sum(memory.needed(of, loop, copies=1).values()) == size * count
    assert sum(memory.needed(of, None).values()) == 4 * count


def test_the_estimate_of_an_8b_model_is_that_of_the_notes() -> None:
    of = memory.Shape(8_190_000_000, 36, 4096, 12288, 151_936, 32768)
    gib = 2**30
    full = memory.needed(of, Loop(precision="fp32_master"), copies=1)
    assert sum(full.values()) / gib == pytest.approx(152.5, rel=0.01)
    kahan = memory.needed(of, Loop(precision="bf16_kahan"), copies=1)
    assert sum(kahan.values()) / gib == pytest.approx(106.8, rel=0.01)
    lora = memory.needed(of, Loop(precision="bf16_pure", lora=LoRA(rank=64)))
    assert 15.2 < sum(lora.values()) / gib < 22
    pack = memory.needed(of, Loop(precision="bf16_pure"), rows=1, longest=8192)
    assert pack["activations"] / gib == pytest.approx(65e9 / gib, rel=0.05)
    with pytest.raises(memory.ModelError, match="about 153 GiB needed under fp32_master"):
        memory.check_memory(full, 139 * gib, Loop(precision="fp32_master"))
    memory.check_memory(kahan, 139 * gib, Loop(precision="bf16_kahan"))
    memory.check_memory(full, None, None)
