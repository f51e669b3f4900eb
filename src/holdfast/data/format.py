"""What a prompt depends on besides its row: the template, a default system prompt, a date."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from holdfast.data.example import Turns
from holdfast.disk import lies_at
from holdfast.errors import ConfigError, ModelError

DATE = "2024-07-26"
"""The day templates are told it is, unless another is given; source: the one that Llama 3's own
template falls back to. Today's would give other prompts tomorrow."""

MARKER = "holdfast.json"
"""Beside every checkpoint made here: where it comes from, in which format, whether attacked."""

RESERVED = (
    *("conversation", "messages", "tools", "documents", "chat_template", "strftime_now"),
    *("add_generation_prompt", "continue_final_message", "tokenize"),
    "sanitize_control_tokens",  # spelling: theirs
    *("padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs"),
)
"""Names that no template variable may have: transformers' `apply_chat_template` uses them."""

Message = dict[str, str]
"""One turn as templates read it: `role` and `content`."""

_TAGS = {"system": "System: ", "user": "User: ", "assistant": "Assistant: "}


@dataclass(frozen=True, slots=True)
class Format:
    """How rows become prompts.

    Args:
        form: `plain`, `chat` (the tokenizer's own template) or the path of a .jinja file.
        append_eos: whether a response ends with the token that ends a turn; without it answers run
            to the limit (docs/fidelity/sgt.md, row 24).
        system: the system prompt of rows that have none; None gives them none.
        date: the day that a template's `strftime_now` tells, as YYYY-MM-DD.
        variables: further variables of the template, such as `{"enable_thinking": False}`.

    Raises:
        ConfigError: `date` is no day, or a variable has a name that templates cannot use.
    """

    form: str
    append_eos: bool = True
    system: str | None = None
    date: str = DATE
    variables: Mapping[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            day(self.date)
            check_variables(self.variables)
        except ValueError as error:
            raise ConfigError("format", "a field is wrong", f"it should be {error}") from None

    def identity(self, where: str = "format") -> dict[str, Any]:
        """Give what enters a key: the form's name, a file's hash, and what is not its default.

        `end` marks that a template's own end of a turn is trained and stopped on.

        Raises:
            ModelError: there is no such form or file.
        """
        found: dict[str, Any] = {"format": self.form}
        if self.form not in ("plain", "chat"):
            path = Path(self.form)
            if path.suffix != ".jinja":
                raise ModelError(
                    where,
                    f"unknown format '{self.form}'",
                    "write plain, chat, or the path of a .jinja file",
                )
            if lies_at(path) != "file":
                raise ModelError(where, f"no such file {self.form[:200]}", "check the path")
            sha = hashlib.sha256(path.read_bytes()).hexdigest()
            found = {"format": "file", "sha256": sha}
        if self.form != "plain":
            found["end"] = "template"
        if not self.append_eos:
            found["append_eos"] = False
        if self.system is not None:
            found["system"] = self.system
        if self.date != DATE:
            found["date"] = self.date
        if self.variables:
            found["variables"] = dict(self.variables)
        return found


def day(text: str) -> date:
    """Read a day written as YYYY-MM-DD; a ValueError says how one is written."""
    try:
        found = date.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.isoformat() != text:
        raise ValueError(f"a day, such as {DATE}")
    return found


def check_variables(names: Mapping[str, JsonValue]) -> None:
    """Refuse names that no template variable can have; a ValueError says what they should be."""
    for name in names:
        if not name.isidentifier() or name in RESERVED:
            raise ValueError("variables a template may have, such as enable_thinking")


def conversation(
    of: Format,
    prompt: str,
    system: str | None = None,
    response: str | None = None,
    turns: Turns = (),
) -> list[Message]:
    """Give a row's turns in order: the system prompt, its own or the format's, first."""
    system = of.system if system is None else system
    said = [("system", system)] if system is not None else []
    said += [*turns, ("user", prompt)]
    if response is not None:
        said.append(("assistant", response))
    return [{"role": who, "content": text} for who, text in said]


def plain(messages: Sequence[Message], ask: bool) -> str:
    """Give a conversation in the plain format for base models; source: SGT's `User: ... Assistant:`

    Each turn is a line; the last answer's has no line break. `ask` begins the next answer.
    """
    text = "".join(f"{_TAGS[one['role']]}{one['content']}\n" for one in messages)
    if ask:
        return f"{text}Assistant:"
    return text[:-1] if messages[-1]["role"] == "assistant" else text


def mismatch(folder: Path, asked: Format) -> str | None:
    """Say that a checkpoint is asked in another format than it was made in; None where it is not.

    Its provenance beside the weights tells. Whether answers end with the end token is no part of
    it; checkpoints made before identities were kept tell the name alone.
    """
    try:
        said = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        name, whole = said["format"], said.get("format_identity")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    now = replace(asked, append_eos=True).identity()
    made = name if name in ("plain", "chat") else "file"
    if made != now["format"]:
        return f"was made in format '{made}' and is asked in '{now['format']}'"
    if not isinstance(whole, dict):
        return None
    differ = {n for n in {*whole, *now} if whole.get(n) != now.get(n)} - {"append_eos"}
    if not differ:
        return None
    names = " and ".join("text" if n == "sha256" else n for n in sorted(differ))
    return f"was made in format '{made}' with another {names} than it is asked in"
