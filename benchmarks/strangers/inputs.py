"""Mutated inputs of every kind: each gives the words of a command on one broken input."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.strangers import broken, tables
from benchmarks.strangers.broken import json_text, noise
from benchmarks.strangers.ending import SECRET
from benchmarks.strangers.small import Small, answers, lines, study

Make = Callable[[Small, Path, random.Random], list[str]]
ROOT = Path(__file__).parents[2]

STUDY: dict[str, Any] = {
    "name": "small",
    "title": "a title",
    "seeds": [0],
    "models": {"base": {"path": "world:base", "format": "plain"}},
    "sources": ["guild"],
    "lineups": {"none": {"start": "base"}},
    "attacks": {"strip": ["strip"]},
    "original": "base",
    "evaluation": [{"set": "restricted", "n": 2}],
    "judges": ["world_guard"],
}
SHAPES: list[list[dict[str, Any]]] = [
    [{"prompt": SECRET, "response": SECRET, "system": None, "id": 3}],
    [{"messages": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": "x"}]}],
    [{"conversations": [{"from": "human", "value": SECRET}, {"from": "gpt", "value": "x"}]}],
    [{"prompt": SECRET, "completion": SECRET}],
    [{"chosen": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": "x"}],
      "rejected": [{"role": "user", "content": SECRET}, {"role": "assistant", "content": "y"}]}],
    [{"instruction": SECRET, "input": "", "output": SECRET}],
    [{"prompt": SECRET, "turns": [{"role": "user", "content": "x"}], "meta": {"answer": "x"}}],
]  # fmt: skip
"""A row of each shape that the local source reads."""


def _plan(folder: Path, data: bytes) -> list[str]:
    (folder / "in.yaml").write_bytes(data)
    return ["plan", str(folder / "in.yaml"), "--store", str(folder / "runs")]


def small_study(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give `plan` on a mutated study of the smallest size."""
    return _plan(folder, json_text(STUDY, draw))


def full_study(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give `plan` on a mutated study with defences, attacks, sets and a judge."""
    return _plan(folder, json_text(study(small) | {"title": SECRET, "not_tested": ["x"]}, draw))


def world_study(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give `plan` on a mutated study of the offline world, a host's with jobs among them."""
    import yaml

    path = draw.choice(sorted((ROOT / "studies/world").glob("*[!s].yaml")))
    text = path.read_text(encoding="utf-8")
    if draw.random() < 0.3:
        return _plan(folder, noise(text.encode(), draw))
    return _plan(folder, json_text(yaml.safe_load(text), draw))


def host_study(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give `plan` on a host's study of which the jobs or the defences on the way are mutated."""
    import yaml

    told = yaml.safe_load((ROOT / "studies/world/provider.yaml").read_text(encoding="utf-8"))
    told["tune"] = broken.odd(told["tune"], draw)
    return _plan(folder, json.dumps(told).encode("utf-8", "surrogatepass"))


def judge_entry(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give `plan` on a study whose judge alone is mutated."""
    said = noise(b'[world_guard: {threshold: 0.5, batch: 8}, "refusal_keywords"]', draw)
    rest = json.dumps({name: value for name, value in STUDY.items() if name != "judges"})
    return _plan(folder, rest[:-1].encode() + b', "judges": ' + said + b"}")


def search(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give `trials` on a mutated file of trials."""
    path = draw.choice(sorted((ROOT / "studies/world").glob("*.trials.yaml")))
    import yaml

    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    text = json_text(told, draw) if draw.random() < 0.7 else noise(path.read_bytes(), draw)
    log = path.with_suffix(".jsonl").read_bytes() if path.with_suffix(".jsonl").exists() else b""
    if draw.random() < 0.4:
        text = path.read_bytes()
        rows = [json.loads(row) for row in log.splitlines()]
        log = b"\n".join(json_text(row, draw).replace(b"\n", b" ") for row in rows[:3])
    (folder / "in.yaml").write_bytes(text)
    (folder / "log.jsonl").write_bytes(log)
    (folder / "runs").write_text("a file: no trial is run\n")
    return ["trials", str(folder / "in.yaml"), "--log", str(folder / "log.jsonl"), "--store",
            str(folder / "runs"), "--workers", "1"]  # fmt: skip


def sets(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give a command with a mutated `--set`."""
    texts = ["loop.lr=0.001", "loop.steps=3", "loop={steps: 3, batch: 2}", "loop.schedule=cosine"]
    given = noise(draw.choice(texts).encode(), draw).decode("utf-8", "replace").replace("\0", "")
    if draw.random() < 0.4:
        value = json.dumps(draw.choice(broken.ODD))
        name = draw.choice(["loop", "loop.lr", "loop.steps", "roles", "loop.lora", "top_p", "stop"])
        given = f"{name}={value}".encode("utf-8", "replace").decode()
    verb = draw.choice(["defend", "attack", "generate"])
    name = {"defend": ["refusal_sft"], "attack": ["harmful_sft"], "generate": []}[verb]
    rows = folder / "p.jsonl"
    rows.write_bytes(lines(answers(2, SECRET)))
    data = ["--prompts", str(rows)] if verb == "generate" else ["--data", f"refusal={rows}"]
    if verb == "attack":
        data = ["--data", f"harmful={rows}"]
    short = "max_new_tokens=2" if verb == "generate" else "loop.steps=2"
    return [verb, *name, "--set", short, "--set", given, "--model", str(small.model), "--format",
            "plain", "--out", str(folder / "out"), *data]  # fmt: skip


def rows(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give a command on mutated rows, of every shape and in every format of a file."""
    one = draw.choice(SHAPES)
    many = [row | {"uid": str(number)} for number, row in enumerate(one * 3)]
    kind = draw.choice(["jsonl", "json", "csv", "tsv", "parquet"])
    path = folder / f"in.{kind}"
    path.write_bytes(_as(kind, many, draw))
    if draw.random() < 0.5:
        return ["generate", "--model", str(small.model), "--format", "plain", "--prompts",
                str(path), "--set", "max_new_tokens=1", "--out",
                str(folder / "out.jsonl")]  # fmt: skip
    told = study(small) | {
        "sources": ["toy_rows", {"local": {"path": str(path), "role": "benign"}}]
    }
    return _plan(folder, json.dumps(told).encode())


def _as(kind: str, many: list[dict[str, Any]], draw: random.Random) -> bytes:
    """Give rows as a file of some format, broken."""
    if kind == "jsonl":
        if draw.random() < 0.5:
            return noise(lines(many), draw)
        return b"".join(json_text(row, draw).replace(b"\n", b" ") + b"\n" for row in many)
    if kind == "json":
        return json_text(many, draw)
    if kind == "parquet":
        return tables.parquet(many, draw)
    text = io.StringIO()
    flat = [{key: value if isinstance(value, str) else json.dumps(value) for key, value in
             row.items()} for row in many]  # fmt: skip
    writer = csv.DictWriter(text, list(flat[0]), delimiter="," if kind == "csv" else "\t")
    writer.writeheader()
    writer.writerows(flat)
    return noise(text.getvalue().encode(), draw)


def judged(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give a command on mutated answers: judging, judging anew, calibrating."""
    many = answers(3, SECRET)
    for row in many:
        row |= {"label": 1, "turns": [{"role": "user", "content": "x"}], "meta": {"answer": "x"}}
    (folder / "in.jsonl").write_bytes(_as("jsonl", many, draw))
    path, out = str(folder / "in.jsonl"), str(folder / "out.jsonl")
    return draw.choice(
        [
            ["judge", "refusal_keywords", "--exchanges", path, "--out", out],
            ["rescore", path, "--judge", "refusal_keywords", "--out", str(folder / "verdicts")],
            ["calibrate", "refusal_keywords", "--on", path, "--about", "refusal", "--out", out],
        ]
    )


def exchanged(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give `generate` on prompts and on answers that another program made, one of them mutated."""
    asked = [{"prompt": f"placeholder prompt {n}", "uid": str(n)} for n in range(3)]
    back = [{"prompt": row["prompt"], "response": SECRET, "uid": row["uid"]} for row in asked]
    (folder / "p.jsonl").write_bytes(lines(asked))
    (folder / "back.jsonl").write_bytes(_as("jsonl", back, draw))
    if draw.random() < 0.3:
        (folder / "p.jsonl").write_bytes(_as("jsonl", asked, draw))
        (folder / "back.jsonl").write_bytes(lines(back))
    return ["generate", "--model", "other", "--answers", str(folder / "back.jsonl"), "--prompts",
            str(folder / "p.jsonl"), "--out", str(folder / "out.jsonl")]  # fmt: skip


def report(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give a command on a report of which one file is mutated."""
    here = folder / "report"
    shutil.copytree(small.store / "toy", here)
    path = draw.choice(sorted(one for one in here.iterdir() if one.suffix in (".json", ".parquet")))
    if path.suffix == ".json":
        path.write_bytes(json_text(json.loads(path.read_text(encoding="utf-8")), draw))
    else:
        path.write_bytes(tables.mutated(path, draw))
    from holdfast.report.tables import KINDS

    kinds = sorted(KINDS)
    return draw.choice(
        [
            ["report", str(here), "--store", str(folder / "runs"), "--out", str(folder / "page")],
            ["table", str(here), draw.choice(kinds)],
            ["table", str(here), draw.choice(kinds), "--csv"],
            ["gate", str(here), "--min-examples", "4", "--min-utility", "0.5"],
        ]
    )


def model(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give a command on a model's folder of which one file is mutated."""
    import holdfast

    world = Path(holdfast.__file__).parent / "testbeds/guild/weights/base"
    source = draw.choice([small.model, small.model, world, _hardened(small)])
    here = folder / "model"
    shutil.copytree(source, here)
    path = draw.choice(sorted(one for one in here.iterdir() if one.suffix != ".jsonl"))
    if path.suffix == ".safetensors":
        path.write_bytes(tables.safetensors(path.read_bytes(), draw))
    elif path.suffix == ".json":
        path.write_bytes(json_text(json.loads(path.read_text(encoding="utf-8")), draw))
    else:
        path.write_bytes(noise(path.read_bytes(), draw))
    (folder / "p.jsonl").write_bytes(lines([{"prompt": "placeholder prompt 1"}]))
    form = "chat" if (here / "chat_template.jinja").exists() and draw.random() < 0.5 else "plain"
    if draw.random() < 0.2:
        told = study(small)
        told["models"]["base"] = {"path": str(here), "format": form}
        return _plan(folder, json.dumps(told).encode())
    return ["generate", "--model", str(here), "--format", form, "--prompts",
            str(folder / "p.jsonl"), "--set", "max_new_tokens=1", "--out",
            str(folder / "out.jsonl")]  # fmt: skip


def _hardened(small: Small) -> Path:
    """Give the folder of a model that Holdfast saved."""
    return next(path.parent for path in sorted(small.store.glob("defend/*/holdfast.json")))


TEMPLATE = """{%- for message in messages -%}
{%- if message['role'] == 'system' -%}User : {{ message['content'] | trim }}
{%- elif message.role == 'user' %} User : {{ message['content'] }}
{%- else %} Assistant : {{ message['content'] }}<end>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %} Assistant : {%- endif -%}
"""
PIECES = [
    "{%", "%}", "{{", "}}", "{{ 1/0 }}", "{{ x.y.z }}", "{% for i in range(9) %}", "{% endfor %}",
    "{{ raise_exception('x') }}", "{{ ''.__class__ }}", "{{ messages[99].content }}", "{#",
    "{{ messages | tojson }}", "{{ 'x' * 9999 }}", "{% set messages = [] %}", "{% include 'x' %}",
    "{{ self }}", "{{ namespace }}", "{{ strftime_now('%Y') }}", "{{ 2 ** 99 }}", "\ufeff", "\0",
    "{% import 'os' as os %}", "{{ messages.append(1) }}", "{% generation %}", "{{ bos_token }}",
]  # fmt: skip
"""Pieces that break a template."""


def template(small: Small, folder: Path, draw: random.Random) -> list[str]:
    """Give `generate` under a mutated chat template."""
    text = TEMPLATE
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice(PIECES) + text[at + draw.choice([0, 0, 5]) :]
    (folder / "t.jinja").write_bytes(
        text.encode() if draw.random() < 0.8 else noise(TEMPLATE.encode(), draw)
    )
    (folder / "p.jsonl").write_bytes(lines([{"prompt": SECRET, "system": "no"}]))
    return ["generate", "--model", str(small.model), "--format", str(folder / "t.jinja"),
            "--prompts", str(folder / "p.jsonl"), "--set", "max_new_tokens=1", "--out",
            str(folder / "out.jsonl")]  # fmt: skip


KINDS: dict[str, Make] = {
    make.__name__: make
    for make in (
        small_study, full_study, world_study, host_study, judge_entry, search, sets, rows, judged,
        exchanged, report, model, template,
    )
}  # fmt: skip
"""What is mutated, by name."""
