"""Answers from a server with an OpenAI-compatible API."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from holdfast.api import seed as seed_of
from holdfast.endpoint import Answer, Chat, Client, declined
from holdfast.errors import ConfigError, EndpointError
from holdfast.evaluate.completion import Completion, before

if TYPE_CHECKING:
    from holdfast.data.example import Example
    from holdfast.evaluate.sampler import Sampler

SEEDS = 2**31
"""Seeds sent are below this: servers keep them in a signed integer of 32 bits."""

log = logging.getLogger(__name__)


def messages(row: Example, system: str | None = None) -> list[dict[str, str]]:
    """Give a prompt as chat messages, oldest first; `system` is for rows that have none."""
    first = row.system if row.system is not None else system
    said = [("system", first)] if first is not None else []
    return [
        {"role": who, "content": text} for who, text in [*said, *row.turns, ("user", row.prompt)]
    ]


def check(client: Client, sampler: Sampler) -> None:
    """Refuse draws from a server that does not draw, and say what else it does not honour.

    Raises:
        ConfigError: it gives one answer whatever the temperature and the seed.
        EndpointError: it answers no more.
    """
    honours, drawn = client.honours(), sampler.temperature > 0
    where = client.endpoint.base_url
    if drawn and honours.temperature is False:
        raise ConfigError(
            "endpoint",
            f"{where} gives one answer at temperature 1 whatever the seed: every draw would be a "
            "copy of the greedy answer",
            "set temperature to 0, or say in endpoint.extra how that server is told to sample",
        )
    if drawn and honours.seed is False:
        log.warning("%s takes no seed: its draws cannot be drawn again", where)
    if not drawn and honours.greedy is False:
        log.warning("%s does not repeat itself at temperature 0", where)
    if honours.max_tokens is False:
        log.warning("%s goes beyond %s; endpoint.limit names another field for it",
                    where, client.endpoint.limit)  # fmt: skip


def served(
    client: Client,
    rows: Sequence[Example],
    sampler: Sampler,
    *,
    seed: int = 0,
    system: str | None = None,
    done: Collection[int] = (),
) -> Iterator[tuple[int, Completion]]:
    """Give the place of each answer and the answer, as they come from a server.

    Draw d of row i has the place `i * sampler.draws + d` and a seed of its own, which depends on
    `seed`, the row's uid and d alone. Stop texts are sent, and cut here where the server left them.

    Args:
        client: an entered client.
        system: the system prompt of rows that have none.
        done: places that need no answer.

    Raises:
        ConfigError: as `check`, and what the client refuses.
        EndpointError: the server answers no more, the budget is spent, or some prompts got no
            answer; that is told after all others are given.
    """
    check(client, sampler)
    many = sampler.draws
    places = [place for place in range(len(rows) * many) if place not in done]
    chats = (_chat(rows[place // many], sampler, seed, place % many, system) for place in places)
    failed: dict[int, Answer] = {}
    for number, answer in client.ask(chats):
        if answer.failed:
            failed[places[number]] = answer
        else:
            yield places[number], _completion(answer, sampler)
    if failed:
        raise _unanswered(failed, len(places), rows, many)


def _unanswered(
    failed: Mapping[int, Answer], asked: int, rows: Sequence[Example], many: int
) -> EndpointError:
    """Say how many answers are missing, and name a row: one that the server refused, if any."""
    refused = sorted(place for place, answer in failed.items() if declined(answer))
    first = refused[0] if refused else min(failed)
    uid = rows[first // many].uid
    return EndpointError(
        "endpoint",
        f"{len(failed)} of {asked} answers did not come, such as that to row {uid} "
        f"({failed[first].failed})",
        "the server does not take it: shorten or drop it; the others are kept"
        if refused
        else "run the same command again: the others are kept",
    )


def _chat(row: Example, sampler: Sampler, seed: int, draw: int, system: str | None) -> Chat:
    drawn: dict[str, JsonValue] = {"temperature": sampler.temperature}
    if sampler.temperature > 0:
        drawn["seed"] = seed_of(seed, "sampling", row.uid, draw) % SEEDS
        drawn["top_p"] = sampler.top_p  # 1 too: a server's own default may be below
    if sampler.stop:
        drawn["stop"] = list(sampler.stop)
    return Chat(tuple(messages(row, system)), sampler.max_new_tokens, drawn, draw)


def _completion(answer: Answer, sampler: Sampler) -> Completion:
    tokens = None if answer.guessed else answer.answered
    text = before(answer.text, sampler)
    if text is not None:
        return Completion(text.strip(), "stop", tokens)
    return Completion(answer.text.strip(), answer.finish_reason or "stop", tokens)
