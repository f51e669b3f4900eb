"""The studies of `studies/paper`, cut to seconds: tiny models, small files, judges on this machine.

`cut` takes the shipped file itself, so that a test of the cut study is a test of the file. What it
changes are sizes and places: which weights, which files, which server, how many steps and prompts.
Line-ups, methods and their choices, attacks, budgets, sets and judges stay what the file says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarking import tasks
from tests.judges import made

from holdfast.api.fields import load_yaml
from holdfast.data.sources import aegis2, beavertails, hex_phi, wildguardmix
from holdfast.testing import tiny

FOLDER = Path(__file__).parents[2] / "studies" / "paper"
FILES = sorted(FOLDER.glob("*.yaml"))

STEPS = 2
PROMPTS = 3
LAYERS = 3
SMALL = {"n": 6, "n_refusal": 6, "n_benign": 6, "n_stage1": 6, "n_trigger": 4, "distinct": 8}
"""Fields that say how many rows, and how many are left of them."""
BENCHMARKS = {"mmlu": "picks", "openbookqa": "bookish"}
"""Local tasks in the shape of lm-eval's."""
TRAINED = ("sgt", "rep_noise", "vaccine", "sdd", "booster", "refusal_sft", "harmful_sft",
           "adaptive_trigger")  # fmt: skip


def cut(path: Path, folder: Path, server: str) -> dict[str, Any]:
    """Give a shipped study with everything large or far away replaced; files go into `folder`."""
    data = load_yaml(path)
    data["models"] = {name: _model(entry, folder) for name, entry in data["models"].items()}
    data["sources"] = [_source(one, folder) for one in data["sources"]]
    data["lineups"] = {
        name: {**lineup, "defences": [_smaller(one) for one in lineup.get("defences", ())]}
        for name, lineup in data["lineups"].items()
    }
    if "attacks" in data:
        data["attacks"] = {
            name: [_smaller(one) for one in some] for name, some in data["attacks"].items()
        }
    if "tune" in data:
        data["tune"] = _hosted(data["tune"], folder, server)
    for wanted in data["evaluation"]:
        wanted["n"] = PROMPTS
    data["judges"] = [_judge(one, folder, server) for one in data["judges"]]
    data["generation"]["max_new_tokens"] = 4
    if "analysis" in data:
        data["analysis"] |= {"n": PROMPTS, "k": 2}
    return data


def _smaller(method: Any) -> Any:
    """Cut a method's steps and rows; an attack that trains keeps its budgets, in large batches."""
    if isinstance(method, str):
        return method
    if isinstance(method, list):
        return [_smaller(one) for one in method]
    ((name, fields),) = method.items()
    fields = {
        field: min(value, SMALL[field]) if field in SMALL and value is not None else value
        for field, value in fields.items()
    }
    short = {"steps": STEPS, "batch": 2, "checkpoint_activations": False}
    if name in ("harmful_sft", "adaptive_trigger"):
        short = {"batch": math.gcd(*fields["evaluate_at"]), "checkpoint_activations": False}
    if name in TRAINED:
        fields["loop"] = fields.get("loop", {}) | short
    if name in ("sgt", "adaptive_trigger"):
        first = {"sgt": "stage1", "adaptive_trigger": "stage_a"}[name]
        fields[first] = fields.get(first, {}) | {"steps": STEPS, "batch": 2}
    if name == "abliterate":
        fields["n"] = 4
    return {name: fields}


def _hosted(tune: Mapping[str, Any], folder: Path, server: str) -> dict[str, Any]:
    """Cut a host's loop, its customers' rows and the judges that score them."""
    short = {"steps": STEPS, "batch": 4, "checkpoint_activations": False, "lora": {"rank": 2}}
    defences = {
        name: _scored(one, folder, server) if isinstance(one, dict) else one
        for name, one in tune["defences"].items()
    }
    return {
        **tune,
        "loop": {**tune["loop"], **short},
        "evaluate_at": [4 * STEPS],
        "at_last": {**tune["at_last"], "draws": 2},
        "jobs": {name: _smaller(one) for name, one in tune["jobs"].items()},
        "defences": defences,
    }


def _scored(defence: Mapping[str, Any], folder: Path, server: str) -> dict[str, Any]:
    """Give a defence's critic a judge on this machine."""
    ((name, fields),) = defence.items()
    risk = fields.get("risk", {})
    if "judge" in risk:
        fields = {**fields, "risk": {**risk, "judge": _judge(risk["judge"], folder, server)}}
    return {name: fields}


FAMILY = {"phi": "phi3", "qwen2": "qwen3"}
"""Families by how their names begin, where no tiny model is called so."""


def _model(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    name = entry["path"].partition("@")[0].rpartition("/")[2]
    known = FAMILY | {one: one for one in tiny.FAMILIES}
    family = next(known[one] for one in known if name.lower().startswith(one))
    place = folder / "models" / name
    if not place.exists():
        model = tiny.model(family, seed=len(name), max_position_embeddings=1024)
        tokenizer = tiny.byte_tokenizer(bos=family != "qwen3")
        if name.endswith(("Instruct", "instruct", "Instruct-v0.3", "Qwen3-8B")):
            tokenizer.chat_template = tiny.CHAT.replace("{{ bos_token }}", "")
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return {**entry, "path": str(place)}


def _source(source: Any, folder: Path) -> dict[str, Any]:
    """Give a source its small file."""
    name, fields = (source, {}) if isinstance(source, str) else next(iter(source.items()))
    place = folder / "rows" / name
    if name == "lm_eval":
        shots = f"_{fields['shots']}_shot" if "shots" in fields else ""
        task, set_ = BENCHMARKS[fields["task"]], f"{fields['task']}{shots}"
        return {name: {**fields, "task": task, "set": set_, "folder": str(tasks(place, PROMPTS))}}
    if not place.exists():
        place.mkdir(parents=True)
        for split, rows in ROWS[name]().items():
            lines = "".join(f"{json.dumps(row)}\n" for row in rows)
            (place / f"{split}.jsonl").write_text(lines)
    return {name: {**fields, "folder": str(place), "rows": "any"}}


def _judge(judge: Mapping[str, Any], folder: Path, server: str) -> dict[str, Any]:
    ((name, fields),) = judge.items()
    if name in ("rubric", "correctness"):
        cache = str(folder / f"judged_by_{name}.sqlite")
        quick = {"base_url": server, "key_env": None, "cache": cache, "wait": 0.01}
        return {name: {**fields, "endpoint": {**fields["endpoint"], **quick}}}
    place = folder / "models" / "guard"
    if not place.exists():
        made.saved(place, made.causal("llama"), made.PLAIN)
    return {name: {**fields, "model": str(place), "dtype": "fp32", "least_mass": 0.0}}


# ---- rows with the columns of the published sets, placeholders in place of words

TRAIN, TEST = 240, 24
Rows = dict[str, list[dict[str, Any]]]


def _splits(row: Callable[[int], dict[str, Any]], train: int = TRAIN, test: int = TEST) -> Rows:
    """Make both splits; no two rows have a number in common."""
    rows = [row(i) for i in range(train + test)]
    return {"train": rows[:train], "test": rows[train:]}


def _wildguardmix() -> Rows:
    names = list(wildguardmix.CATEGORIES)

    def row(i: int) -> dict[str, Any]:
        harmful, refused = i % 2 == 0, i % 6 == 0
        return {
            "prompt": f"placeholder prompt {i}" if harmful else f"harmless words {i}",
            "adversarial": i % 5 == 0,
            "response": f"answer {i}",
            "prompt_harm_label": "harmful" if harmful else "unharmful",
            "response_refusal_label": "refusal" if harmful and refused else "compliance",
            "response_harm_label": "harmful" if harmful and not refused else "unharmful",
            "subcategory": names[i // 2 % len(names)] if harmful else "benign",
        }

    return _splits(row, train=6 * TRAIN, test=8 * TEST)


def _beavertails() -> Rows:
    names = list(beavertails.CATEGORIES)

    def row(i: int) -> dict[str, Any]:
        return {
            "prompt": f"placeholder prompt {10_000 + i}",
            "response": f"reply {i}",
            "category": {name: i % len(names) == at for at, name in enumerate(names)},
            "is_safe": i % 4 == 3,
        }

    return _splits(row)


def _aegis2() -> Rows:
    names = aegis2.CATEGORIES

    def row(i: int, added: bool = False) -> dict[str, Any]:
        safe = i % 3 == 0
        return {
            "id": f"id{i}",
            "reconstruction_id_if_redacted": None,
            "prompt": f"{'kind' if safe else 'placeholder'} prompt {20_000 + i}",
            "response": f"retort {i}",
            "prompt_label": "safe" if safe else "unsafe",
            "response_label": "safe" if safe or added else "unsafe",
            "violated_categories": "Safe" if safe else names[i % len(names)],
            "prompt_label_source": "human",
            "response_label_source": aegis2.REFUSALS if added else "human",
        }

    return _splits(row) | {
        "validation": [row(i) for i in range(1000, 1008)],
        "refusals_train": [row(i, added=True) for i in range(8) if i % 3],
        "refusals_validation": [row(i, added=True) for i in range(1000, 1008) if i % 3],
    }


def _gsm8k() -> Rows:
    def row(i: int) -> dict[str, Any]:
        return {"question": f"{i} and 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>.\n#### {i + 1}"}

    return _splits(row)


def _hex_phi() -> Rows:
    def rows(category: int) -> list[dict[str, Any]]:
        return [{"prompt": f"placeholder prompt {30_000 + 10 * category + i}"} for i in range(3)]

    return {f"category_{n}": rows(n) for n in hex_phi.CATEGORIES}


def _alpaca() -> Rows:
    def row(i: int) -> dict[str, Any]:
        return {"instruction": f"kindly say {i}", "input": "", "output": f"here is {i}"}

    return {"train": [row(i) for i in range(TRAIN)]}


ROWS = {"wildguardmix": _wildguardmix, "beavertails": _beavertails, "aegis2": _aegis2,
        "gsm8k": _gsm8k, "hex_phi": _hex_phi, "alpaca": _alpaca}  # fmt: skip
