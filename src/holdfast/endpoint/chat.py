"""What is asked and what came back, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from holdfast.api.ends import ended

TEMPLATE = 64
"""Tokens that a server may add to what is sent, at most: turns, roles, a date; ours."""
LETTERS = 4
"""Bytes of a token where a server counts none; source: OpenAI's rule of thumb for English."""


@dataclass(frozen=True, slots=True)
class Chat:
    """One request: its messages, the most tokens it may answer, and how they are drawn."""

    messages: tuple[Mapping[str, str], ...]
    """`{"role": ..., "content": ...}`, oldest first."""
    max_tokens: int
    """The most tokens of each answer."""
    sampling: Mapping[str, JsonValue] = field(default_factory=dict)
    """`temperature`, `top_p`, `seed`, `n`, `stop`, ... as the server calls them."""
    draw: int = 0
    """Tells equal requests apart that are to be drawn anew; it is not sent."""
    trial: bool = False
    """Whether a field that the server does not take is an answer; else it is an error."""

    def body(self, model: str, limit: str, extra: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """Give what is sent to `model`; `limit` is what its server calls the token limit."""
        messages: list[JsonValue] = [dict(message) for message in self.messages]
        body: dict[str, JsonValue] = {"model": model, "messages": messages, limit: self.max_tokens}
        return {**body, **self.sampling, **extra}

    def key(self, endpoint: Mapping[str, JsonValue]) -> str:
        """Give the SHA-256 of everything that can change the answer, in hex.

        Args:
            endpoint: its `key_fields`: who answers.
        """
        return digest([endpoint, self.body("", "max_tokens", {}), self.draw])

    @property
    def size(self) -> int:
        """Give the bytes of what is sent: no tokenizer makes more tokens of them than there are."""
        return sum(len(text.encode()) for message in self.messages for text in message.values())

    @property
    def most(self) -> tuple[int, int]:
        """Give the most tokens it may cost: sent, answered."""
        draws = self.sampling.get("n")
        many = draws if isinstance(draws, int) else 1
        return self.size + TEMPLATE, self.max_tokens * many

    def guess(self, answered: str) -> tuple[int, int]:
        """Give about what it cost, sent and answered, where the server says nothing."""
        return -(-self.size // LETTERS), -(-len(answered.encode()) // LETTERS)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request; under `failed` nothing did, and the rest is empty."""

    text: str = ""
    finish_reason: str = ""
    """`stop`, `length`, `content_filter`, or the server's own word."""
    sent: int = 0
    """Tokens of the request, as the server counted them."""
    answered: int = 0
    """Tokens of the answer, likewise."""
    guessed: bool = False
    """Whether the server counted none and these are estimates."""
    refused: bool = False
    """Whether the server said, apart from the text, that it will not answer."""
    others: tuple[str, ...] = ()
    """The texts of further choices, where `n` asked for some."""
    logprobs: tuple[float, ...] | None = None
    """The log-probability of each token of `text`, where they were asked for and given."""
    failed: str = ""
    """Why there is no answer, in a few words that quote nothing."""
    cached: bool = False
    """Whether it was there already and nothing was sent."""


def digest(data: object) -> str:
    """Give the SHA-256 of plain data, in hex: sorted names, no spaces, no NaN."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read(reply: object, chat: Chat) -> Answer | None:
    """Read a chat completion's JSON; None where it has no usable choice.

    Servers differ: every part may be missing or of another kind.
    """
    choices = _part(reply, "choices")
    if not isinstance(choices, list) or not choices:
        return None
    first, *others = choices
    message = _part(first, "message")
    if not isinstance(message, dict):
        return None
    text, refusal, finish = _text(first), message.get("refusal"), _part(first, "finish_reason")
    refused = isinstance(refusal, str) and bool(refusal.strip()) and not text
    text = str(refusal) if refused else text
    more = tuple(_text(one) for one in others)
    counted = _usage(reply)
    sent, answered = counted or chat.guess("".join([text, *more]))
    return Answer(
        text=text,
        finish_reason=ended(finish) if isinstance(finish, str) else "",
        sent=sent,
        answered=answered,
        guessed=counted is None,
        refused=refused or finish == "content_filter",
        others=more,
        logprobs=_logprobs(first),
    )


def _part(thing: object, name: str) -> object:
    return thing.get(name) if isinstance(thing, dict) else None


def _text(choice: object) -> str:
    content = _part(_part(choice, "message"), "content")
    return content if isinstance(content, str) else ""


def _usage(reply: object) -> tuple[int, int] | None:
    usage = _part(reply, "usage")
    sent, answered = _part(usage, "prompt_tokens"), _part(usage, "completion_tokens")
    if isinstance(sent, int) and isinstance(answered, int) and sent > 0 and answered >= 0:
        return sent, answered
    return None


def _logprobs(choice: object) -> tuple[float, ...] | None:
    tokens = _part(_part(choice, "logprobs"), "content")
    if not isinstance(tokens, list):
        return None
    found = [_part(token, "logprob") for token in tokens]
    return tuple(float(one) for one in found if isinstance(one, int | float))
