"""What a study may hold that would fail late: `plan` refuses it in one line and writes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast.cli import run

Change = Callable[[dict[str, Any]], object]

FORM = "a name of letters, digits and _ . + - (a letter or digit first; at most 100)"
HALF = (
    "study.json: text holds half a surrogate pair, which is no character; write the character "
    "whole, or take it out"
)
NUL = "study.json: text holds a NUL character; take it out"
SFT = "study.lineups.refusal_sft[0].refusal_sft"
ATTACK = "study.attacks.harmful_sft[0].harmful_sft"
MEND = "; mend it or use format: plain"


def put(*path: str | int, value: object) -> Change:
    """Give a change that puts a value at a path of the study."""

    def change(data: Any) -> None:
        *parents, last = path
        for part in parents:
            data = data[part]
        data[last] = value

    return change


def loop(**fields: object) -> Change:
    """Give a change of the defence's loop."""
    return lambda data: data["lineups"]["refusal_sft"]["defences"][0]["refusal_sft"]["loop"].update(
        fields
    )


def budgets(values: list[object]) -> Change:
    """Give a change of the first attack's budgets."""
    return put("attacks", "harmful_sft", 0, "harmful_sft", "evaluate_at", value=values)


def template(text: str | bytes, field: str = "evaluation_format") -> Change:
    """Give a change that names a template."""

    def change(data: dict[str, Any]) -> None:
        Path("t.jinja").write_bytes(text if isinstance(text, bytes) else text.encode())
        data["models"]["base"][field] = "t.jinja"

    return change


def config(**fields: object) -> Change:
    """Give a change of the model's config; None takes a field away."""

    def change(_: dict[str, Any]) -> None:
        path = Path("model/config.json")
        made = json.loads(path.read_text()) | fields
        path.write_text(json.dumps({k: v for k, v in made.items() if v is not None}))

    return change


def rows(text: str | bytes, **fields: object) -> Change:
    """Give a change that adds a file of rows."""

    def change(data: dict[str, Any]) -> None:
        Path("rows.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
        local = {"path": "rows.jsonl", "role": "benign", **fields}
        data["sources"] = ["toy_rows", {"local": local}]

    return change


def tokenizer(text: str) -> Change:
    """Give a change that puts other text where the tokenizer should be."""
    return lambda _: Path("model/tokenizer.json").write_text(text)


def source(path: str) -> Change:
    """Give a change that names a file of rows which is not there."""
    return put("sources", value=["toy_rows", {"local": {"path": path, "role": "benign"}}])


LONG = "bex " * 200
ONE_LONG = "".join(
    json.dumps({"prompt": f"{LONG if i == 7 else 'bex'} {i}", "response": "no"}) + "\n"
    for i in range(40)
)

TEMPLATES: dict[str, tuple[Change, str]] = {
    "no end": (
        template("{% for m in messages %}"),
        "model 'base': the template fails (Unexpected end of template. Jinja was looking for the "
        "following tags: 'endfor' or 'else'. The innermost block that needs to be closed is "
        f"'for'.){MEND}",
    ),
    "no end, the attacker's": (
        template("{{ x", "attack_format"),
        "model 'base': the template fails (unexpected end of template, expected 'end of print "
        f"statement'.){MEND}",
    ),
    "raises": (
        template("{{ raise_exception('no') }}"),
        f"model 'base': the template fails (no){MEND}",
    ),
    "of another shape of row": (
        template("{{ messages[0].content.nothing.more }}"),
        "model 'base': the template fails ('str object' has no attribute 'nothing')" + MEND,
    ),
    "without the words": (
        template("constant"),
        "model 'base': the template does not show the user's words; mend the template",
    ),
    "fails on a later row": (
        template("{{ messages[-1].content }}{{ 1 // ('rol' not in messages[-1].content) }}"),
        f"model 'base': the template fails (integer division or modulo by zero){MEND}",
    ),
    "no UTF-8": (
        template(b"ab\xff"),
        "t.jinja:1: is not UTF-8 (invalid start byte at byte 3); save it as UTF-8",
    ),
}  # fmt: skip

MODELS: dict[str, tuple[Change, str]] = {
    "of code of its own": (
        config(model_type="x_custom", auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        "model: the config makes no model (ValueError: The checkpoint you are trying to load has "
        "model type `x_custom` but Transformers does not recognize this architecture. This could "
        "be because of an issue with the checkpoint, or because your version of Transformers is "
        "out of date.); check config.json",
    ),
    "of no type": (
        config(model_type=None),
        "model: the config makes no model (ValueError: Unrecognized model in model. Should have a "
        "`model_type` key in its config.json.); check config.json",
    ),
    "of another width": (
        config(hidden_size=32),
        "study.models.base.path: the weights are not those of the config: 20 of another shape "
        "('model.embed_tokens.weight (34, 16) for (34, 32)', "
        "'model.layers.0.input_layernorm.weight (16,) for (32,)', "
        "'model.layers.0.mlp.down_proj.weight (16, 32) for (32, 32)' and 17 more); copy both "
        "again, from one checkpoint",
    ),
    "deeper": (
        config(num_hidden_layers=3),
        "model: the config makes no model (ValueError: `num_hidden_layers` (3) must be equal to "
        "the number of `layer_types` (2)); check config.json",
    ),
    "of a width in words": (
        config(hidden_size="a"),
        "model: the config makes no model (TypeError: Field 'hidden_size' expected int, got str "
        "(value: 'a')); check config.json",
    ),
    "with a name of 5000 letters": (
        put("models", "base", "path", value="a" * 5000),
        f"study.models.base.path: no such model folder: {'a' * 200}; give a folder, world:base or "
        "org/name@COMMIT",
    ),
    "with a format of 5000 letters": (
        put("models", "base", "format", value="a" * 5000 + ".jinja"),
        f"study.models.base.format: no such file {'a' * 200}; check the path",
    ),
    "with no format's name": (
        put("models", "base", "evaluation_format", value=""),
        "study.models.base.evaluation_format: unknown format ''; write plain, chat, or the path of "
        "a .jinja file",
    ),
    "with no day": (
        put("models", "base", "date", value="2024-13-01"),
        "study.models.base.date: got '2024-13-01'; it should be a day, such as 2024-07-26",
    ),
    "with a reserved variable": (
        put("models", "base", "variables", value={"messages": 1}),
        "study.models.base.variables: got {'messages': 1}; it should be variables a template may "
        "have, such as enable_thinking",
    ),
    "with a system prompt that is a number": (
        put("models", "base", "system", value=3),
        "study.models.base.system: got 3; it should be a valid string",
    ),
}

WORDS: dict[str, tuple[Change, str]] = {
    "title": (put("title", value="a\ud800"), HALF),
    "note": (put("lineups", "none", "note", value="x\udfff"), HALF),
    "what was not tested": (put("not_tested", value=["\ud800"]), HALF),
    "system prompt": (put("models", "base", "system", value="\ud800"), HALF),
    "variable": (put("models", "base", "variables", value={"a": "\ud800"}), HALF),
    "path": (put("models", "base", "path", value="a\0b"), NUL),
    "file": (source("a\0b"), NUL),
    "name of 300": (
        put("name", value="x" * 300),
        f"study.name: got '{'x' * 56}...; it should be {FORM}",
    ),
    "line-up of 300": (
        put("lineups", "y" * 300, value={"start": "base"}),
        f"study.lineups: got '{'y' * 56}...; it should be {FORM}",
    ),
    "attacker of 300": (
        put("attacks", "y" * 300, value=["strip"]),
        f"study.attacks: got '{'y' * 56}...; it should be {FORM}",
    ),
    "line-up with a slash": (
        put("lineups", "a/b", value={"start": "base"}),
        f"study.lineups: got 'a/b'; it should be {FORM}",
    ),
    "line-up of the folder above": (
        put("lineups", "..", value={"start": "base"}),
        f"study.lineups: got '..'; it should be {FORM}",
    ),
    "line-up without a name": (
        put("lineups", "", value={"start": "base"}),
        f"study.lineups: got ''; it should be {FORM}",
    ),
}

NUMBERS: dict[str, tuple[Change, str]] = {
    "seed below 0": (
        put("seeds", value=[-1]),
        "study.seeds.0: got -1; it should be greater than or equal to 0",
    ),
    "seed that is a word": (
        put("seeds", value=[True]),
        "study.seeds.0: got True; it should be a valid integer",
    ),
    "seed of a half": (
        put("seeds", value=[1.5]),
        "study.seeds.0: got 1.5; it should be a valid integer",
    ),
    "no tokens": (
        put("generation", "max_new_tokens", value=0),
        "study.generation.max_new_tokens: got 0; it should be greater than or equal to 1",
    ),
    "temperature below 0": (
        put("generation", "temperature", value=-1),
        "study.generation.temperature: got -1; it should be greater than or equal to 0",
    ),
    "a moment that never begins": (
        loop(beta1=1.0),
        f"{SFT}.loop.beta1: got 1.0; it should be less than 1",
    ),
    "no eps": (loop(eps=0), f"{SFT}.loop.eps: got 0; it should be greater than 0"),
    "no rank": (
        loop(lora={"rank": 0}),
        f"{SFT}.loop.lora.rank: got 0; it should be greater than or equal to 1",
    ),
    "budget below 0": (
        budgets([-4]),
        f"{ATTACK}.evaluate_at.0: got -4; it should be greater than or equal to 1",
    ),
    "no budget": (
        budgets([]),
        f"{ATTACK}.evaluate_at: got []; it should be a list with at least 1 in it",
    ),
    "strength above 1": (
        put("attacks", "strip", value=[{"strip": {"evaluate_at": [1e300]}}]),
        "study.attacks.strip[0].strip.evaluate_at.0: got 1e+300; it should be less than or equal "
        "to 1",
    ),
    "no group": (
        put("evaluation", 0, "n", value=0),
        "study.evaluation[0].n: got 0; it should be greater than or equal to 1",
    ),
    "no chunk": (
        put("chunk", value=0),
        "study.chunk: got 0; it should be greater than or equal to 1",
    ),
    "no threshold": (
        put("thresholds", value=[]),
        "study.thresholds: got []; it should be a list with at least 1 in it",
    ),
    "likeness above 1": (
        put("leakage", value={"threshold": 2}),
        "study.leakage.threshold: got 2; it should be less than or equal to 1",
    ),
    "neighbours beyond the prompts": (
        put("analysis", value={"lineups": ["none"], "n": 3, "k": 99}),
        "study.analysis.k: 99 neighbours of 3 prompts; ask for at most 2",
    ),
}

ROWS: dict[str, tuple[Change, str]] = {
    "one of forty too long": (
        rows(ONE_LONG),
        "defend refusal_sft: refusal_sft, seed 0: row rows.jsonl:8: 207 tokens, the model's "
        "context is 64; shorten or drop the row",
    ),
    "half a character": (
        rows('{"prompt": "a\\ud800", "response": "no"}\n'),
        "rows.jsonl:1: column 'prompt' holds half a surrogate pair, which is no character; write "
        "the character whole, or take it out",
    ),
    "no UTF-8": (
        rows(b'{"prompt": "\xff", "response": "no"}\n'),
        "rows.jsonl:1: is not UTF-8 (invalid start byte at byte 13); save it as UTF-8",
    ),
    "a number for a prompt": (
        rows('{"prompt": 3, "response": "no"}\n'),
        "rows.jsonl:1: column 'prompt' is empty or no text; fill it or drop the row",
    ),
    "an empty prompt": (
        rows('{"prompt": " ", "response": "no"}\n'),
        "rows.jsonl:1: column 'prompt' is empty or no text; fill it or drop the row",
    ),
    "none": (rows(""), "rows.jsonl: no rows; give a file that has some"),
    "a list": (rows("[1, 2]\n"), "rows.jsonl:1: not a JSON object; write one object a line"),
    "a NUL": (
        rows('{"prompt": "a\\u0000b", "response": "no"}\n'),
        "rows.jsonl:1: column 'prompt' holds a NUL character; take it out",
    ),
    "a tokenizer that is a list": (
        tokenizer("[]"),
        "model 'base': the tokenizer cannot be loaded ('str' object cannot be interpreted as an "
        "integer); copy it",
    ),
}

PARTS: dict[str, tuple[Change, str]] = {
    "no line-up": (
        put("lineups", value={}),
        "study.lineups: got {}; it should be a list with at least 1 in it",
    ),
    "line-ups in a list": (
        put("lineups", value=["a"]),
        "study.lineups: got ['a']; it should be fields, such as {name: value}",
    ),
    "sets in a word": (
        put("evaluation", value="restricted"),
        "study.evaluation: got 'restricted'; it should be a list, such as [restricted]",
    ),
    "an attack that is a number": (
        put("attacks", "strip", value=[3]),
        "study.attacks.strip[0]: expected one attack, got 3; write `name` or `name: {field: "
        "value}`",
    ),
    "two attacks in one": (
        put("attacks", "strip", value=[{"strip": {}, "harmful_sft": {}}]),
        "study.attacks.strip[0]: expected one attack, got {'strip': {}, 'harmful_sft': {}}; write "
        "`name` or `name: {field: value}`",
    ),
    "a chain of three": (
        put("attacks", "strip", value=[["strip", "strip", "strip"]]),
        "study.attacks.strip[0]: a chain of 3 attacks; write [edit, training]",
    ),
    "fields in a list": (
        put("attacks", "strip", value=[{"strip": [1]}]),
        "study.attacks.strip[0].strip: expected fields, got [1]; write `name: value` lines "
        "under it",
    ),
    "no judge's name": (
        put("judges", value=[None]),
        "study.judges[0]: expected one judge, got None; write `name` or `name: {field: value}`",
    ),
    "another headline": (
        put("headline", value="nothing"),
        "study.headline: 'nothing' is no set of purpose 'harm' asked of side 'evaluator'; known: "
        "restricted",
    ),
    "utility of harm": (
        put("utility", value=["restricted"]),
        "study.utility[0]: set 'restricted' is of purpose 'harm', which has no right answer; "
        "known: benign, quiz",
    ),
    "a look at nobody": (
        put("analysis", value={"lineups": ["nobody"]}),
        "study.analysis.lineups[0]: no line-up 'nobody'; known: none, refusal_sft",
    ),
    "honest training on harm": (
        put("tuning", value={"role": "harmful"}),
        "study.tuning.role: got 'harmful'; it should be 'task' or 'benign'",
    ),
}  # fmt: skip

CASES = {
    f"{kind}: {name}": case
    for kind, cases in {
        "template": TEMPLATES, "model": MODELS, "words": WORDS, "number": NUMBERS, "rows": ROWS,
        "parts": PARTS,
    }.items()
    for name, case in cases.items()
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_study_that_cannot_be_run_is_refused_by_plan(
    case: str,
    toy: ModuleType,
    toy_model: Path,
    installed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy_model, "model")
    data = toy.study(Path("model"))
    change, line = CASES[case]
    change(data)
    Path("study.json").write_text(json.dumps(data))

    code = run(["plan", "study.json"])

    assert capsys.readouterr().err.splitlines()[-1] == f"holdfast: {line}"
    assert code == 2
    assert {p.name for p in tmp_path.iterdir()} <= {"model", "study.json", "t.jinja", "rows.jsonl"}
