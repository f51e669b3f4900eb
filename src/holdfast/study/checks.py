"""What can be wrong with the parts of a study, told before anything runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.api import Attack, Chain, Defence
from holdfast.api.fields import Fields
from holdfast.data.example import Role
from holdfast.data.format import Format
from holdfast.data.records import read_text
from holdfast.errors import ConfigError, ModelError, did_you_mean
from holdfast.nn.files import resolve
from holdfast.nn.history import doubts, history
from holdfast.nn.skeleton import check_names
from holdfast.study.file import ModelEntry
from holdfast.study.keys import key
from holdfast.study.nodes import Start


def unique(labels: Sequence[str], where: str) -> None:
    """Refuse two of the same."""
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise ConfigError(
                f"{where}[{i}]",
                f"is '{label}' like an earlier one",
                "let each differ in name or fields",
            )


def variants(choices: Sequence[Attack], where: str) -> list[str]:
    """Give each choice of an attacker a label of its own.

    That is what it calls itself; choices that call themselves alike are told apart by the fields in
    which they differ.

    Raises:
        ConfigError: two are the same, or differ only where no result can.
    """
    labels = [choice.label() for choice in choices]
    found = []
    for choice, label in zip(choices, labels, strict=True):
        alike = [other for other, theirs in zip(choices, labels, strict=True) if theirs == label]
        fields = [_named(other) for other in alike]
        names = sorted(
            {name for some in fields for name in some if len({one.get(name) for one in fields}) > 1}
        )
        own = _named(choice)
        found.append(" ".join(part for part in (label, *(own.get(n, "") for n in names)) if part))
    for i, label in enumerate(found):
        if label not in found[:i]:
            continue
        given, before = (_flat(choices[at]) for at in (i, found.index(label)))
        differ = [name for name in given if given[name] != before.get(name)]
        if differ:
            raise ConfigError(
                f"{where}[{i}]",
                f"differs from an earlier one in {' and '.join(differ)} alone, which changes no "
                "result",
                "make one of the two",
            )
        raise ConfigError(
            f"{where}[{i}]",
            f"is '{label}' like an earlier one",
            "let each differ in name or fields",
        )
    return found


SHORT = {"batch": "batch_size"}
"""What a label calls a field of an attack's own loop, whose other fields keep their names: the
words of every table made before attacks had a loop."""


def _named(method: Attack) -> dict[str, str]:
    """Give every field that can change a result as a label shows it: `lora.rank` -> `lora.rank=4`.

    A method's own name is among them.
    """
    found = {"": (method.then if isinstance(method, Chain) else method).name()}
    for place, value in _flat(method, method.key_fields()).items():
        group, dot, rest = place.rpartition("loop.")
        own = dot and (not group or group.endswith("then."))
        name = f"{group}{SHORT.get(rest, rest)}" if own else place
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        found[name] = f"{name}={'none' if value is None else shown}"
    return found


def _flat(
    group: Fields, keys: Mapping[str, Any] | None = None, above: str = ""
) -> dict[str, object]:
    """Give a group's fields at any depth: `lora.rank` -> 4.

    Args:
        keys: what of them enters a key; those left out there change no result and are left out
            here, but for choices at their default that came later.
    """
    found: dict[str, object] = {}
    for name, info in type(group).model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        if keys is not None and name not in keys and "enters_key" not in extra:
            continue
        value, place = getattr(group, name), f"{above}{name}"
        if isinstance(value, Fields):
            deeper = None if keys is None else keys.get(name, value.key_fields())
            found |= _flat(value, deeper, f"{place}.")
        else:
            found[place] = value
    return found


def one_unit(choices: Sequence[Attack], where: str) -> None:
    """Refuse choices of one attacker whose budgets count different things."""
    for i, choice in enumerate(choices):
        if choice.unit != choices[0].unit:
            raise ConfigError(
                f"{where}[{i}].{choice.name()}",
                f"counts its budget in {choice.unit}, the first choice in {choices[0].unit}",
                "make it an attacker of its own",
            )


def known_roles(member: Defence, where: str) -> None:
    """Refuse a defence that declares a role nobody has."""
    for role in member.roles:
        if role not in {known.value for known in Role}:
            raise ConfigError(
                where, f"declares an unknown role '{role}'", did_you_mean(role, list(Role))
            )


def find_start(name: str, entry: ModelEntry) -> Start:
    """Find a model entry on this machine and check its formats."""
    where = f"study.models.{name}"
    files = resolve(entry.path, f"{where}.path")
    for field_name in ("format", "attack_format", "evaluation_format"):
        form = getattr(entry, field_name)
        if form is not None:
            Format(form).identity(f"{where}.{field_name}")
            if form == "chat":
                check_chat(files.folder, f"{where}.{field_name}")
    check_names(files, f"{where}.path")
    history(files.folder)  # refuses a note of other weights
    return Start(name, entry, files, key("model", files=files.identity()), files.dtype())


def doubted(starts: Iterable[Start]) -> list[str]:
    """Say what the notes of a study's models have against them, a sentence each."""
    return [
        f"Model '{start.name}': {line}."
        for start in starts
        for line in doubts(history(start.files.folder))
    ]


def check_chat(folder: Path, where: str) -> None:
    """Refuse `chat` where the tokenizer brings no template."""
    if not own_template(folder):
        raise ModelError(
            where,
            "format 'chat' asked for, the tokenizer has no chat template",
            "use format: plain or a .jinja file",
        )


def own_template(folder: Path) -> str:
    """Give the chat template beside a tokenizer; several, one behind the other, or none at all."""
    found = folder / "chat_template.jinja"
    if found.is_file():
        return read_text(found)
    for name in ("chat_template.json", "tokenizer_config.json"):
        try:
            said = json.loads((folder / name).read_text(encoding="utf-8"))["chat_template"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if said:
            return said if isinstance(said, str) else json.dumps(said)
    return ""
