"""What can be wrong with the parts of a study, told before anything runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from holdfast.data.example import Role
from holdfast.data.tokens import format_identity
from holdfast.errors import ConfigError, ModelError, did_you_mean
from holdfast.method import Attack, Defence
from holdfast.models.files import resolve
from holdfast.studies.keys import key
from holdfast.studies.nodes import Start
from holdfast.studies.study import ModelEntry


def unique(labels: Sequence[str], where: str) -> None:
    """Refuse two of the same."""
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise ConfigError(
                f"{where}[{i}]",
                f"is '{label}' like an earlier one",
                "let each differ in name or fields",
            )


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
