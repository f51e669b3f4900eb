"""The format options of the single commands: what they say, keep, refuse and warn of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast import nn
from holdfast.cli import run
from holdfast.data.example import Role
from holdfast.testing import tiny

OWN = "{% for m in messages %}{{ m.role }} {{ m.content }} {{ mood }}\n{% endfor %}"
DATED = "{{ strftime_now('%d %b %Y') }} {{ messages[-1].content }}"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder with a model, rows and two templates."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    nn.save(tiny.model("llama"), tiny.byte_tokenizer(bos=True), Path("model"))
    for role in (Role.REFUSAL, Role.BENIGN):
        rows = tiny.rows()[role]
        told = (json.dumps({"prompt": row.prompt, "response": row.response}) for row in rows)
        Path(f"{role.value}.jsonl").write_text("\n".join(told) + "\n")
    Path("prompts.jsonl").write_text('{"prompt": "placeholder prompt 3"}\n')
    Path("own.jinja").write_text(OWN)
    Path("dated.jinja").write_text(DATED)
    return tmp_path


def defend(*more: str, form: str = "plain", out: str = "out") -> int:
    loop = "loop={steps: 2, batch: 2, lr: 0.01, checkpoint_every: 2}"
    return run([
        *("defend", "refusal_sft", "--model", "model", "--format", form, "--set", loop),
        *("--held-out", "0"),
        *("--data", "refusal=refusal.jsonl", "--data", "benign=benign.jsonl", *more, "--out", out),
    ])  # fmt: skip


def generate(*more: str, model: str = "model", form: str = "plain") -> int:
    return run([
        *("generate", "--model", model, "--format", form, "--prompts", "prompts.jsonl"),
        *("--set", "max_new_tokens=4", *more, "--out", "answers.jsonl"),
    ])  # fmt: skip


def test_what_prompts_depend_on_is_kept_beside_the_weights(bench: Path) -> None:
    assert defend("--template-var", "mood=so", "--system", "be kind.", form="own.jinja") == 0
    said = json.loads(Path("out/holdfast.json").read_text())
    assert said["sample_prompt"] == "system be kind. so\nuser What is a lantern? so\n"
    assert said["format_identity"]["variables"] == {"mood": "so"}
    assert said["format_identity"]["system"] == "be kind."
    assert defend("--date", "2020-01-02", form="dated.jinja", out="dated") == 0
    said = json.loads(Path("dated/holdfast.json").read_text())
    assert said["sample_prompt"] == "02 Jan 2020 What is a lantern?"


def test_a_model_asked_in_another_format_than_it_was_made_in_is_warned_about(
    bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert defend() == 0
    capsys.readouterr()
    assert generate(model="out") == 0
    assert "warning" not in capsys.readouterr().err
    assert generate(model="out", form="own.jinja") == 0
    line = "warning: out was made in format 'plain' and is asked in 'file'"
    assert line in capsys.readouterr().err.splitlines()
    assert generate("--system", "be kind.", model="out") == 0
    line = "warning: out was made in format 'plain' with another system than it is asked in"
    assert line in capsys.readouterr().err.splitlines()


def short(context: int) -> None:
    config = json.loads(Path("model/config.json").read_text())
    Path("model/config.json").write_text(json.dumps(config | {"max_position_embeddings": context}))


def marked() -> None:
    """Have the tokenizer know a token that the model has no embedding for."""
    tokenizer = tiny.byte_tokenizer(bos=True)
    tokenizer.add_tokens([f"<{i}>" for i in range(tiny.VOCABULARY - len(tokenizer) + 1)])
    tokenizer.save_pretrained("model")
    Path("own.jinja").write_text(f"{{{{ messages[-1].content }}}}<{len(tokenizer)}>")
    last = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    Path("own.jinja").write_text(f"{{{{ messages[-1].content }}}}{last}")


BAD: dict[str, tuple[Callable[[], object], list[str], str, str]] = {
    "a day that is none": (
        lambda: None,
        ["--date", "26 Jul 2024"],
        "plain",
        "--date: got '26 Jul 2024'; it should be a day, such as 2024-07-26",
    ),
    "a variable without a value": (
        lambda: None,
        ["--template-var", "mood"],
        "plain",
        "--template-var: got 'mood'; write name=value",
    ),
    "a variable with a taken name": (
        lambda: None,
        ["--template-var", "messages=1"],
        "plain",
        "--template-var: got 'messages'; it should be variables a template may have, such as "
        "enable_thinking",
    ),
    "a prompt and its answer over the context": (
        lambda: short(20),
        [],
        "plain",
        r"--prompts: row .*:\d+: \d+ tokens and 4 for the answer, the model's context is 20; "
        "shorten or drop the row, or ask for shorter answers",
    ),
    "a token without an embedding": (
        marked,
        [],
        "own.jinja",
        r"--prompts: row .*\.jsonl:\d+: needs the token 340, the model's embedding has 340 rows; "
        "resize the embedding and save the model, or use its own tokenizer",
    ),
    "a template without end": (
        lambda: Path("own.jinja").write_text(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
        ),
        [],
        "own.jinja",
        "--prompts: the template does not end within 2 s; mend it or use format: plain",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line_before_any_weight_is_read(
    bench: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    spoil, more, form, line = BAD[name]
    spoil()
    monkeypatch.setattr("holdfast.nn.load", None)
    capsys.readouterr()
    assert generate(*more, form=form) == 2
    told = capsys.readouterr().err.strip().removeprefix("holdfast: ")
    assert told == line or re.fullmatch(line, told)
    assert "placeholder prompt" not in told
