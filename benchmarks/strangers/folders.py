"""Hostile model folders and chat templates, each by its name."""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.strangers.ending import SECRET, Ended, Words, fault, ran
from benchmarks.strangers.small import Small, lines, study

Spoil = Callable[[Path], None]
CANARY = "canary"
"""The file that hostile code would make."""
MEMORY = 8 * 2**30
"""Bytes of address space that a command on a hostile model may take."""
CODE = f"open({CANARY!r}, 'w').close()\n"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Case:
    """What is done to a good model's folder, the template it is asked under, and whether the
    command must refuse it."""

    spoil: Spoil = lambda folder: None
    template: str | bytes | None = None
    refused: bool = True


@contextmanager
def edited(path: Path) -> Iterator[dict[str, Any]]:
    """Give a JSON file's content to change."""
    said = json.loads(path.read_text(encoding="utf-8"))
    yield said
    path.write_text(json.dumps(said), encoding="utf-8")


def config(**changes: Any) -> Spoil:
    """Change a model's config."""

    def spoil(folder: Path) -> None:
        with edited(folder / "config.json") as said:
            said |= changes

    return spoil


def named(name: str, **changes: Any) -> Spoil:
    """Change another JSON file of a model."""

    def spoil(folder: Path) -> None:
        with edited(folder / name) as said:
            said |= changes

    return spoil


def file(name: str, content: str | bytes) -> Spoil:
    """Write a file of a model."""
    data = content.encode() if isinstance(content, str) else content

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return spoil


def code(owner: str, **changes: Any) -> Spoil:
    """Have a model name code of its own, which would tell that it ran."""

    def spoil(folder: Path) -> None:
        (folder / "own.py").write_text(CODE)
        with edited(folder / owner) as said:
            said |= changes

    return spoil


def swapped(name: str, put: Callable[[Path], object]) -> Spoil:
    """Put something else in the place of a file."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        put(folder / name)

    return spoil


def tensors(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change a model's weights."""

    def spoil(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def indexed(to: str) -> Spoil:
    """Have an index say where the weights are."""

    def spoil(folder: Path) -> None:
        from safetensors import safe_open

        with safe_open(folder / WEIGHTS, "pt") as held:
            names = list(held.keys())
        (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, to)}))

    return spoil


def nested(name: str) -> Spoil:
    """Nest a JSON file too deep to be read."""
    return file(name, '{"a":' * 100_000 + "1" + "}" * 100_000)


RUNS = f"cbuiltins\nexec\n(S{CODE!r}\ntR.".encode()
"""A pickle that runs code when it is read."""


def _list(folder: Path) -> None:
    indexed("x")(folder)
    (folder / INDEX).write_text("[]")


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(RUNS)


def _pickle_beside(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(RUNS)
    (folder / "training_args.bin").write_bytes(RUNS)


def _nan(held: dict[str, Any]) -> None:
    for one in held.values():
        one.fill_(float("nan"))


def _transposed(held: dict[str, Any]) -> None:
    for name in list(held):
        if "mlp" in name:
            held[name] = held[name].T.contiguous()


def _loop(path: Path) -> None:
    path.symlink_to(path.with_name("b"))
    path.with_name("b").symlink_to(path)


def _into_itself(folder: Path) -> None:
    (folder / "inside").symlink_to(folder)


def _token(folder: Path) -> None:
    """Give a word of the tokenizer a number far beyond the embedding."""
    with edited(folder / "tokenizer.json") as said:
        said["model"]["vocab"] = {word: n + 10**6 for word, n in said["model"]["vocab"].items()}


HEADER = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4 * 2**40]}})
GOOD = "{% for m in messages %} User : {{ m['content'] }}{% endfor %} Assistant :"
CASES: dict[str, Case] = {
    "auto_map in the config": Case(code("config.json", auto_map={
        "AutoModelForCausalLM": "own.Model", "AutoConfig": "own.Config"}), refused=False),
    "an unknown model type with code of its own": Case(code("config.json", model_type="own",
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})),
    "auto_map in the tokenizer": Case(code("tokenizer_config.json", tokenizer_class="Own",
        auto_map={"AutoTokenizer": ["own.Own", "own.Own"]}), refused=False),
    "pickled weights alone": Case(_pickled),
    "pickles beside the weights": Case(_pickle_beside, refused=False),
    "an index that leaves the folder": Case(indexed("../../x.safetensors")),
    "an index that names /dev/zero": Case(indexed("/dev/zero")),
    "an index that names a missing shard": Case(indexed("model-00002-of-00002.safetensors")),
    "an index that is a list": Case(_list),
    "weights that link out of the folder": Case(swapped(WEIGHTS, lambda path:
        path.symlink_to("/etc/hostname"))),
    "weights in a loop of links": Case(swapped(WEIGHTS, _loop)),
    "weights that are a fifo": Case(swapped(WEIGHTS, os.mkfifo)),
    "weights that are a folder": Case(swapped(WEIGHTS, Path.mkdir)),
    "a config that is a fifo": Case(swapped("config.json", os.mkfifo)),
    "a config that is a folder": Case(swapped("config.json", Path.mkdir)),
    "a config that is a link to /dev/zero": Case(swapped("config.json", lambda path:
        path.symlink_to("/dev/zero"))),
    "a tokenizer that is a fifo": Case(swapped("tokenizer.json", os.mkfifo)),
    "a tokenizer's config that is a fifo": Case(swapped("tokenizer_config.json", os.mkfifo)),
    "a generation config that is a fifo": Case(swapped("generation_config.json", os.mkfifo)),
    "a holdfast.json that is a fifo": Case(lambda folder: os.mkfifo(folder / "holdfast.json")),
    "a template of the folder that is a fifo": Case(
        lambda folder: os.mkfifo(folder / "chat_template.jinja")),
    "a folder that links into itself": Case(_into_itself, refused=False),
    "a config too deep to read": Case(nested("config.json")),
    "a tokenizer too deep to read": Case(nested("tokenizer.json")),
    "a generation config too deep to read": Case(nested("generation_config.json")),
    "a holdfast.json too deep to read": Case(nested("holdfast.json"), refused=False),
    "a config that is no JSON": Case(file("config.json", b"\xff\xfe\x00")),
    "a config of 5,000 digits": Case(file("config.json", '{"hidden_size": ' + "9" * 5000 + "}")),
    "a header of 2^62 bytes": Case(file(WEIGHTS, struct.pack("<Q", 2**62) + b"{}")),
    "a header that promises 4 TiB": Case(file(WEIGHTS, struct.pack("<Q", len(HEADER))
        + HEADER.encode())),
    "weights that are cut": Case(lambda folder: os.truncate(folder / WEIGHTS, 9000)),
    "weights of other shapes": Case(tensors(_transposed)),
    "weights with a layer missing": Case(tensors(lambda held: [held.pop(name) for name in
        list(held) if "layers.1." in name])),
    "weights that are NaN": Case(tensors(_nan)),
    "a vocabulary of 10^12": Case(config(vocab_size=10**12)),
    "a million layers": Case(config(num_hidden_layers=10**6, layer_types=None)),
    "no heads": Case(config(num_attention_heads=0)),
    "a context of minus one": Case(config(max_position_embeddings=-1)),
    "a model type that is a list": Case(config(model_type=["qwen3"])),
    "an architecture that is a path": Case(config(architectures=["../../os.system"]),
        refused=False),
    "an end token of 10^9": Case(config(eos_token_id=10**9), refused=False),
    "tokens beyond the embedding": Case(_token),
    "a tokenizer of another kind": Case(named("tokenizer.json", model={"type": "Nothing"})),
    "an attention from the hub": Case(config(attn_implementation="org/evil",
        _attn_implementation="org/evil"), refused=False),
    "a template that never ends": Case(template=
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + GOOD),
    "a template that writes gigabytes": Case(template="{{ 'x' * 4000000000 }}" + GOOD),
    "a template that doubles": Case(template="{% set n = namespace(x='xxxxxxxx') %}"
        "{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}" + GOOD),
    "a template with a power": Case(template="{{ 9 ** (9 ** 9) }}" + GOOD),
    "a template that pads": Case(template="{{ '%999999999999d' % 1 }}" + GOOD),
    "a template that raises with a prompt": Case(template=
        "{{ raise_exception(messages[0]['content']) }}" + GOOD),
    "a template that escapes by classes": Case(template="{{ ''.__class__.__mro__[1]"
        ".__subclasses__() }}" + GOOD),
    "a template that escapes by globals": Case(template="{{ cycler.__init__.__globals__.os"
        f".system('touch {CANARY}') }}}}" + GOOD),
    "a template that formats its way out": Case(template=
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}" + GOOD),
    "a template that includes a file": Case(template="{% include '/etc/passwd' %}" + GOOD),
    "a template that calls itself": Case(template=
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}" + GOOD),
    "a template with a byte order mark": Case(template="\ufeff" + GOOD, refused=False),
    "a template that is no text": Case(template=b"\xff\xfe\x00{{"),
    "a template that says nothing of the prompt": Case(template="Assistant :"),
    "a template without a generation prompt": Case(template=
        "{% for m in messages %} User : {{ m['content'] }}{% endfor %}", refused=False),
    "a template that is empty": Case(template=""),
    "a template nested too deep": Case(template="{% if 1 %}" * 3000 + "{% endif %}" * 3000 + GOOD),
    "a template of brackets": Case(template="{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}" + GOOD),
    "a template that writes control characters": Case(template="\x1b[2J\u202e\0" + GOOD,
        refused=False),
}  # fmt: skip
"""What is hostile, by name."""


def tried(
    small: Small, folder: Path, case: Case, tell: Callable[[Words, Ended], None]
) -> str | None:
    """Ask one hostile model, and plan a study on it; give what is wrong, or None."""
    here = folder / "model"
    shutil.copytree(small.model, here)
    case.spoil(here)
    form = "plain"
    if case.template is not None:
        form = str(folder / "t.jinja")
        text = case.template
        Path(form).write_bytes(text.encode() if isinstance(text, str) else text)
    elif (here / "chat_template.jinja").exists():
        form = "chat"
    (folder / "p.jsonl").write_bytes(lines([{"prompt": SECRET}]))
    told = study(small)
    told["models"]["base"] = {"path": str(here), "format": form}
    (folder / "s.json").write_text(json.dumps(told))
    asked = ["generate", "--model", str(here), "--format", form, "--prompts",
             str(folder / "p.jsonl"), "--set", "max_new_tokens=1", "--out",
             str(folder / "out.jsonl")]  # fmt: skip
    planned = ["plan", str(folder / "s.json"), "--store", str(folder / "runs")]
    codes = []
    for words in (asked, planned):
        ended = ran(words, functools.partial(_bounded, folder))
        tell(words, ended)
        codes.append(ended.code)
        if wrong := fault(ended, folder):
            return f"{wrong} ({words[0]})"
        if any(folder.rglob(CANARY)) or Path(CANARY).exists():
            return "traceback: its code ran"
    if case.refused and codes[0] == 0:
        return f"silent: accepted (generate {codes[0]}, plan {codes[1]})"
    return None


def _bounded(folder: Path) -> None:
    """Work in the folder, within some memory: what asks for more is refused or fails."""
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
