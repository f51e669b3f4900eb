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
from holdfast.data.records import named, shown
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

OTHERS = ("tool", "function", "observation", "function_call", "developer", "ipython", "model")
"""Speakers whose turns a row cannot hold, by the names that an error shows."""

LOST = ("tool_calls", "function_call", "reasoning_content", "thinking")
"""What a message may hold beside its text and a row cannot."""

UNHELD = ("tools", "functions", "tool_calls", "function_call", "images", "videos", "audios")
"""Columns of what a row cannot hold."""

WEIGHTS = ("weight", "train", "loss")
"""How a message says that it is not trained on: 0 or false."""

EARLIER = ("turns", "history")
"""Columns of what was said before a prompt in a column of its own."""

BESIDE = {
    "input": "write `shape: alpaca`",
    "context": "write them into the prompt, or leave the column out",
}
"""Columns of what belongs to a prompt called `instruction`, and what to do where none is read."""

ALONE = ", or set `response: null` to read prompts alone"
"""What else helps where there is no answer."""

EMPTY = ("", "[]", "{}", "null", "None")
"""How text says that a column has nothing to say."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where records keep their conversation.

    `prompt` and `response` name columns with text or with a list of messages. Without `prompt` the
    whole conversation is in `response`; without `response` prompts alone are read. `context` is a
    column that follows the prompt after a blank line; `turns` one with the messages before it, by
    default one of `EARLIER`. `mapped` columns hold something else, whatever their names.
    """

    shape: str
    prompt: str | None
    response: str | None
    context: str | None = None
    turns: str | None = None
    mapped: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Say whether one column has the whole conversation."""
        return self.prompt is None or self.shape in ("messages", "sharegpt")

    def holds(self, record: Record, column: str) -> bool:
        """Say whether a column that nobody named has something to say."""
        if column in (self.prompt, self.response, *self.mapped):
            return False
        value = record.get(column)
        return value not in (None, [], {}) and str(value).strip() not in EMPTY


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
    if response != RESPONSE or (has(first, RESPONSE) and not has(first, answer)):
        answer = response
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
        raise _missing(record, column, where, todo)
    group, _, rest = column.partition(".")
    inner = record[group]
    return cell(inner if isinstance(inner, Mapping) else {}, rest, where)


def _missing(record: Record, column: str, where: str, todo: str) -> DataError:
    """Give the error of a column that is not there, with the shape that the others fit."""
    if not named(record):
        return DataError(
            where,
            f"no column '{column}', and none of a known name",
            f"map it to the name that it has, or put a line of names first if this is a row{todo}",
        )
    known = f"map it to one of: {shown(record)}{todo}"
    if column == PROMPT and {"instruction", "input"} <= record.keys():
        return DataError(where, f"no column '{column}'", f"{known}, or write `shape: alpaca`")
    for i, value in enumerate(record.values()):
        if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            name = shown(record).split(", ")[i]
            shape = "sharegpt" if "from" in value[0] else "messages"
            return DataError(
                where,
                f"no column '{column}'",
                f"{known}, or write `shape: {shape}` and `prompt: {name}`",
            )
    return DataError(where, f"no column '{column}'", known)


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

    Pairs of texts are questions with their answers.

    Raises:
        DataError: one is no message, or cannot be taken whole.
    """
    value = given(record, column)
    if value is None or value == []:
        return ()
    if isinstance(value, list) and all(isinstance(pair, list) for pair in value):
        if not all(len(pair) == 2 for pair in value):
            cause = f"column '{column}' has something else than pairs of question and answer"
            raise DataError(where, cause, "write [[question, answer], ...]")
        return tuple(
            (who, text_of(text, column, where))
            for pair in value
            for who, text in zip(("user", "assistant"), pair, strict=True)
        )
    return tuple(_messages(record, column, None, where))


def _earlier(record: Record, at: Layout, where: str) -> Turns:
    """Give what was said before the prompt, by the column named for it or one of `EARLIER`."""
    if at.turns is not None:
        return turns_of(record, at.turns, where)
    found = [one for one in EARLIER if at.holds(record, one) and not _count(record[one])]
    if not found:
        return ()
    if at.whole:
        cause = f"column '{found[0]}' has turns beside a whole conversation"
        raise DataError(where, cause, "write them into it, or leave the column out")
    if len(found) > 1:
        cause = f"columns '{found[0]}' and '{found[1]}' both have earlier turns"
        raise DataError(where, cause, "say which in `turns`")
    return turns_of(record, found[0], where)


def _count(value: object) -> bool:
    """Say whether a value is how many turns there are, not what was said in them."""
    return isinstance(value, int | float) or (isinstance(value, str) and value.strip().isdecimal())


def _check_held(record: Record, at: Layout, where: str) -> None:
    """Refuse a record with something in another column that a row cannot hold, or would leave out.

    Raises:
        DataError: it has.
    """
    for column in UNHELD:
        if column in record and at.holds(record, column):
            cause = f"column '{column}' is filled, and a row holds text alone"
            raise DataError(where, cause, "drop the row, or leave the column out")
    if at.prompt != "instruction":
        return
    for column, todo in BESIDE.items():
        if column != at.context and at.holds(record, column):
            raise DataError(where, f"column '{column}' has words that would not be read", todo)


def conversation(record: Record, at: Layout, where: str, todo: str = "") -> Conversation:
    """Give what a record says.

    Raises:
        DataError: a column is missing or empty, the conversation has turns that a row cannot hold
            or ends with the user where a response is needed. No word of it is told.
    """
    _check_held(record, at, where)
    asked = [] if at.prompt is None else _messages(record, at.prompt, "user", where, todo)
    if at.context is not None and record.get(at.context) not in (None, ""):
        added = text_of(record[at.context], at.context, where)
        asked = [*asked[:-1], ("user", f"{asked[-1][1]}\n\n{added}")]
    asked = [*_earlier(record, at, where), *asked]
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
                f"add the answer, drop the row{todo or ALONE}",
            )
    system = said.pop(0)[1] if said[0][0] == "system" else None
    response = said.pop()[1] if said[-1][0] == "assistant" else None
    return Conversation(system, tuple(said[:-1]), said[-1][1], response)


def _joined(
    asked: list[tuple[str, str]], record: Record, at: Layout, column: str, where: str, todo: str
) -> list[tuple[str, str]]:
    """Give a conversation whose answer, or the whole of it, is in a column of its own."""
    answer = _messages(record, column, None if at.prompt is None else "assistant", where, todo)
    value = record.get(column)
    if isinstance(value, list) and (name := _untrained(value[-1])):
        cause = f"message {len(value)} in column '{column}' is not trained on, by its '{name}'"
        raise DataError(where, cause, f"drop the row{ALONE}")
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
        role = f"role '{who}'" if who in OTHERS else "another role"
        raise DataError(
            where, f"{what} is of {role}", f"drop the row (roles: {', '.join(SPEAKERS)})"
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


def _untrained(value: object) -> str | None:
    """Give the name by which a message says that it is not trained on, if it does."""
    said = value if isinstance(value, Mapping) else {}
    return next((one for one in WEIGHTS if said.get(one) in (0, False)), None)


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
