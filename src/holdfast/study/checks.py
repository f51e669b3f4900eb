"""What can be wrong with the parts of a study, told before anything runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from holdfast.api import Attack, Defence
from holdfast.api.fields import Fields
from holdfast.data.example import Role
from holdfast.data.tokens import format_identity
from holdfast.errors import ConfigError, ModelError, did_you_mean
from holdfast.nn.files import resolve
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
    told = []
    for choice, label in zip(choices, labels, strict=True):
        alike = [other for other, theirs in zip(choices, labels, strict=True) if theirs == label]
        fields = [_fields(other) for other in alike]
        names = sorted(
            {name for some in fields for name in some if len({one.get(name) for one in fields}) > 1}
        )
        own = _fields(choice)
        told.append(" ".join(part for part in (label, *(own.get(n, "") for n in names)) if part))
    for i, label in enumerate(told):
        if label not in told[:i]:
            continue
        first = choices[told.index(label)]
        given, before = choices[i].model_dump(), first.model_dump()
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
    return told


def _fields(method: Fields, above: str = "") -> dict[str, str]:
    """Give every field that can change a result as a reader sees it: `lora.rank` -> `lora.rank=4`.

    A method's own name is among them.
    """
    found = {"": method.name()} if isinstance(method, Attack) else {}
    for name, info in type(method).model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        if extra.get("affects_result") is False:
            continue
        value, place = getattr(method, name), f"{above}{name}"
        if isinstance(value, Fields):
            found |= _fields(value, f"{place}.")
        else:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            found[place] = f"{place}={'none' if value is None else shown}"
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
            format_identity(form, f"{where}.{field_name}")
            if form == "chat":
                check_chat(files.folder, f"{where}.{field_name}")
    return Start(name, entry, files, key("model", files=files.identity()))


def check_chat(folder: Path, where: str) -> None:
    """Refuse `chat` where the tokenizer brings no template."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if not config.get("chat_template"):
        raise ModelError(
            where,
            "format 'chat' asked for, the tokenizer has no chat template",
            "use format: plain or a .jinja file",
        )
