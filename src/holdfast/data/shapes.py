"""The shapes in which people keep rows, each read as one conversation.

A conversation is a system prompt or none, then `user` and `assistant` in turn. The last user turn
is the prompt, the assistant's after it the response, and what was said before is context. Nothing
is left out in silence: what cannot be taken whole is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.api import Known
from holdfast.data.example import Turns
from holdfast.data.records import shown
from holdfast.errors import DataError

Record = Mapping[str, object]

PROMPT, RESPONSE = "prompt", "response"
"""The two columns of a file of no other shape."""

SHAPES: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "preference": ("chosen", "rejected"),
    "alpaca": ("instruction", "output"),
}
"""The other shapes, each with the columns by which a record of it is known."""

SPEAKERS = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "human": "user",
    "gpt": "assistant",
}
"""Who speaks, in the words of `messages` and of ShareGPT."""

LOST = ("tool_calls", "function_call", "reasoning_content", "thinking")
"""What a message may hold beside its text and a row cannot."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where records keep their conversation.

    `prompt` and `response` name columns with text or with a list of messages. Without `prompt` the
    whole conversation is in `response`; without `response` prompts alone are read. `context` is a
    column that follows the prompt after a blank line; `turns` one with the messages before it.
    """

    shape: str
    prompt: str | None
    response: str | None
    context: str | None = None
    turns: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one record says; `turns` are those before the prompt."""

    system: str | None
    turns: Turns
    prompt: str
    response: str | None


def layout(first: Record, shape: str, prompt: str, response: str | None, where: str) -> Layout:
    """Give where records like the first one keep their conversation.

    `shape` is `columns`, one of `SHAPES`, or `auto`, which takes the columns that `prompt` and
    `response` name where they are there, else the one shape that fits. A name other than `PROMPT`
    and `RESPONSE` is taken in place of the shape's own; `response` None reads prompts alone.

    Raises:
        DataError: the columns fit two shapes.
    """
    if shape == "auto":
        shape = _recognised(first, prompt, response, where)
    mapped = next((name for name in (prompt, response) if name not in (PROMPT, RESPONSE, None)), "")
    if shape in ("messages", "sharegpt"):
        return _whole(shape, mapped or SHAPES[shape][0], response)
    if shape == "preference" and PROMPT not in first and isinstance(first.get("chosen"), list):
        return _whole(shape, mapped or "chosen", response)
    own = {"alpaca": ("instruction", "output", "input"), "preference": (PROMPT, "chosen", None)}
    own |= {"prompt_completion": (PROMPT, "completion", None)}
    asked, answer, context = own.get(shape, (PROMPT, RESPONSE, None))
    asked = asked if prompt == PROMPT else prompt
    answer = answer if response == RESPONSE else response
    return Layout(shape, asked, answer, context)


def _whole(shape: str, column: str, response: str | None) -> Layout:
    """Give the layout of records that keep a whole conversation in one column."""
    return Layout(shape, column, None) if response is None else Layout(shape, None, column)


def _recognised(first: Record, prompt: str, response: str | None, where: str) -> str:
    if has(first, prompt) and (response is None or has(first, response)):
        return "columns"
    if prompt != PROMPT or response not in (None, RESPONSE):
        pair = has(first, "chosen") and response in SHAPES["preference"] and prompt == PROMPT
        return "preference" if pair else "columns"
    fits = [shape for shape, columns in SHAPES.items() if all(has(first, one) for one in columns)]
    if len(fits) > 1:
        shapes = " and ".join(fits)
        raise DataError(where, f"its columns fit the shapes {shapes}", "say which in `shape`")
    return fits[0] if fits else "columns"


def has(record: Record, column: str) -> bool:
    """Say whether a record has a column; `a.b` is the part `b` of a nested column `a`."""
    group, dot, rest = column.partition(".")
    inner = record.get(group)
    return column in record or (bool(dot) and isinstance(inner, Mapping) and has(inner, rest))


def cell(record: Record, column: str, where: str, todo: str = "") -> object:
    """Give what a record has in a column, which may be nested: `a.b`.

    Raises:
        DataError: there is no such column. `todo` says what else than another name would help.
    """
    if column in record:
        return record[column]
    if not has(record, column):
        known = f"map it to one of: {shown(record)}"
        raise DataError(where, f"no column '{column}'", f"{known}{todo}")
    group, _, rest = column.partition(".")
    inner = record[group]
    return cell(inner if isinstance(inner, Mapping) else {}, rest, where)


def given(record: Record, column: str) -> object:
    """Give what a record has in a column, or None where it lacks it."""
    return cell(record, column, "") if has(record, column) else None


def text_of(value: object, column: str, where: str) -> str:
    """Give the text of a column; raises DataError where it is no text or has no words."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(where, f"column '{column}' is empty or no text", "fill it or drop the row")
    return value


def meta_of(record: Record, column: str, where: str) -> dict[str, Any]:
    """Give the object in a column, where a row's other facts are; without a cell it is empty.

    Raises:
        DataError: it is no object, or one of its fields is of another kind than `Known` says.
    """
    found = given(record, column) or {}
    if not isinstance(found, dict):
        raise DataError(where, f"'{column}' is no object", "write fields there, or leave it out")
    try:
        Known.of(found)
    except DataError as error:
        raise DataError(where, f"'{error.where}' {error.what}", error.todo) from None
    return dict(found)


def turns_of(record: Record, column: str, where: str) -> Turns:
    """Give the messages in a column, (who speaks, text); no such cell, or an empty one, is none.

    Raises:
        DataError: one is no message, or cannot be taken whole.
    """
    if given(record, column) in (None, []):
        return ()
    return tuple(_messages(record, column, None, where))


def conversation(record: Record, at: Layout, where: str, todo: str = "") -> Conversation:
    """Give what a record says.

    Raises:
        DataError: a column is missing or empty, the conversation has turns that a row cannot hold
            or ends with the user where a response is needed. No word of it is told.
    """
    asked = [] if at.prompt is None else _messages(record, at.prompt, "user", where, todo)
    if at.context is not None and record.get(at.context) not in (None, ""):
        added = text_of(record[at.context], at.context, where)
        asked = [*asked[:-1], ("user", f"{asked[-1][1]}\n\n{added}")]
    if at.turns is not None:
        asked = [*turns_of(record, at.turns, where), *asked]
    if at.response is None:
        said = _checked(asked, where)
        if len(said) > 1 and said[-1][0] == "assistant":  # prompts alone were asked for
            said = said[:-1]
    else:
        said = _checked(_joined(asked, record, at, at.response, where, todo), where)
        if said[-1][0] != "assistant":
            raise DataError(
                where,
                "the conversation ends with the user",
                "add the answer, drop the row, or set `response: null` to read prompts alone",
            )
    system = said.pop(0)[1] if said[0][0] == "system" else None
    response = said.pop()[1] if said[-1][0] == "assistant" else None
    return Conversation(system, tuple(said[:-1]), said[-1][1], response)


def _joined(
    asked: list[tuple[str, str]], record: Record, at: Layout, column: str, where: str, todo: str
) -> list[tuple[str, str]]:
    """Give a conversation whose answer, or the whole of it, is in a column of its own."""
    answer = _messages(record, column, None if at.prompt is None else "assistant", where, todo)
    if answer[0][0] == "assistant":
        return [*asked, *answer]
    if asked not in (answer[: len(asked)], [turn for turn in answer[:2] if turn[0] == "user"]):
        raise DataError(
            where,
            f"the conversation in column '{column}' does not begin with the prompt",
            "keep the answer alone there",
        )
    return answer


def _messages(
    record: Record, column: str, speaker: str | None, where: str, todo: str = ""
) -> list[tuple[str, str]]:
    """Give the messages of a column, (who speaks, text); plain text is one of the speaker's."""
    value = cell(record, column, where, todo)
    if isinstance(value, list):
        found = [
            _message(one, f"message {i} in column '{column}'", where)
            for i, one in enumerate(value, start=1)
        ]
    elif speaker is None:
        cause = f"column '{column}' is no list of messages"
        raise DataError(where, cause, "write [{role: ..., content: ...}, ...]")
    else:
        found = [(speaker, text_of(value, column, where))]
    if not found:
        raise DataError(where, f"column '{column}' has no messages", "fill it or drop the row")
    return found


def _message(value: object, what: str, where: str) -> tuple[str, str]:
    """Read {role, content}, or ShareGPT's {from, value}."""
    if not isinstance(value, Mapping):
        raise DataError(where, f"{what} is no object", "write {role: ..., content: ...}")
    who = value.get("role") or value.get("from")  # of a nested column, every key is there
    if not isinstance(who, str):
        raise DataError(where, f"{what} has no role", "write {role: ..., content: ...}")
    if who not in SPEAKERS:
        known = ", ".join(SPEAKERS)
        raise DataError(
            where, f"{what} is of role '{shown([who])}'", f"drop the row (roles: {known})"
        )
    for name in LOST:
        if value.get(name):
            raise DataError(where, f"{what} has '{name}', which a row cannot hold", "drop the row")
    content = value.get("content") or value.get("value")
    if isinstance(content, list):
        content = "".join(_part(part, what, where) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise DataError(where, f"{what} is empty or no text", "fill it or drop the row")
    return SPEAKERS[who], content


def _part(value: object, what: str, where: str) -> str:
    """Read a piece of a message's content; pieces follow each other without a space."""
    text = value.get("text") if isinstance(value, Mapping) else None
    if not isinstance(text, str):
        raise DataError(where, f"{what} holds something else than text", "drop the row")
    return text


def _checked(said: list[tuple[str, str]], where: str) -> list[tuple[str, str]]:
    """Give messages that are a system prompt or none, then user and assistant in turn."""
    turns = said[1:] if said[0][0] == "system" else said
    if not turns or turns[0][0] == "assistant":
        raise DataError(where, "the conversation does not begin with the user", "drop the row")
    for i, (who, _) in enumerate(turns):
        if who == "system":
            cause = "a system prompt stands within the conversation"
            raise DataError(where, cause, "keep one, before the first turn")
        if who != ("user", "assistant")[i % 2]:
            cause = f"two turns of the {who} follow each other"
            raise DataError(where, cause, "make them one, or drop the row")
    return list(said)
