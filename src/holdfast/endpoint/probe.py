"""What a server does with what it is told. Many accept a field and ignore it with 200 OK."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Self

from pydantic import JsonValue

from holdfast.endpoint.chat import Answer, Chat
from holdfast.endpoint.faults import PASSING

TRIALS = 9
"""Requests that a trial takes."""
LONG, SHORT = 24, 4
"""Tokens of an answer in which two draws differ, and of one that is certainly cut."""
STORY = "Write a story about a lighthouse keeper and a gull."
NOTHING: Mapping[str, JsonValue] = {}
GREETING = "Say good morning in French. Plain words, no JSON."


@dataclass(frozen=True, slots=True)
class Honours:
    """What was seen of a server, once: True it does, False it does not, None it cannot be told."""

    greedy: bool | None
    """Temperature 0 gives the same answer twice."""
    temperature: bool | None
    """At temperature 1, two seeds give two answers."""
    seed: bool | None
    """At temperature 1, one seed gives one answer."""
    n: bool | None
    """`n` of 2 gives two choices."""
    logprobs: bool | None
    """The log-probabilities of the answer's tokens come back."""
    max_tokens: bool | None
    """An answer ends at the token limit."""
    response_format: bool | None
    """An answer is JSON where that is asked for."""

    def text(self) -> str:
        """Give it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Self:
        """Read it from JSON."""
        found = json.loads(text)
        return cls(**{field.name: found[field.name] for field in fields(cls)})


def probe(ask: Callable[[Sequence[Chat]], list[Answer]]) -> Honours:
    """Try a server with `TRIALS` short harmless requests; `ask` sends them.

    A request that fails says nothing, except that a server which refuses a field does not take it.
    """

    one, two, first, again, other, several, marked, short, shaped = ask(
        [
            _chat(0.0),
            _chat(0.0, draw=1),
            _chat(1.0, {"seed": 1}),
            _chat(1.0, {"seed": 1}, draw=1),
            _chat(1.0, {"seed": 2}),
            _chat(1.0, {"n": 2}),
            _chat(0.0, {"logprobs": True}),
            _chat(0.0, most=SHORT),
            _chat(0.0, {"response_format": {"type": "json_object"}}, prompt=GREETING),
        ]
    )
    varies = _differ(first, other)
    return Honours(
        greedy=_not(_differ(one, two)),
        temperature=varies,
        seed=_not(_differ(first, again)) if varies else None,
        n=_taken(several, len(several.others) == 1),
        logprobs=_taken(marked, bool(marked.logprobs)),
        max_tokens=_taken(short, 0 < short.answered <= SHORT and not short.guessed),
        response_format=_taken(shaped, shaped.text.lstrip().startswith("{")),
    )


def _chat(
    temperature: float,
    more: Mapping[str, JsonValue] = NOTHING,
    *,
    draw: int = 0,
    prompt: str = STORY,
    most: int = LONG,
) -> Chat:
    sampling = {"temperature": temperature, **more}
    return Chat(({"role": "user", "content": prompt},), most, sampling, draw, trial=True)


def _differ(one: Answer, other: Answer) -> bool | None:
    if one.failed or other.failed or not (one.text and other.text):
        return None
    return one.text != other.text


def _not(word: bool | None) -> bool | None:
    return None if word is None else not word


def _taken(answer: Answer, seen: bool) -> bool | None:
    """Give what was seen; a request refused as such is a field not taken."""
    if answer.failed:
        return False if declined(answer) else None
    return seen


def declined(answer: Answer) -> bool:
    """Say whether the server refused a request for what it says; any other fault may pass."""
    status = re.match(r"HTTP (4\d\d)\b", answer.failed)
    return status is not None and int(status[1]) not in PASSING
