"""Answers from a server with an OpenAI-compatible API."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import JsonValue

from holdfast.api import seed as seed_of
from holdfast.endpoint import Answer, Chat, Client
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
    """Refuse draws from a server that does not draw, and say where its seeds mean nothing.

    Raises:
        ConfigError: it gives one answer whatever the temperature and the seed.
        EndpointError: it answers no more.
    """
    if sampler.temperature == 0:
        return
    honours = client.honours()
    where = client.endpoint.base_url
    if honours.temperature is False:
        raise ConfigError(
            "endpoint",
            f"{where} gives one answer at temperature 1 whatever the seed: every draw would be a "
            "copy of the greedy answer",
            "set temperature to 0, or say in endpoint.extra how that server is told to sample",
        )
    if honours.seed is False:
        log.warning("%s takes no seed: its draws cannot be drawn again", where)


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
    failed: list[str] = []
    for number, answer in client.ask(chats):
        if answer.failed:
            failed.append(answer.failed)
        else:
            yield places[number], _completion(answer, sampler)
    if failed:
        raise EndpointError(
            "endpoint",
            f"{len(failed)} of {len(places)} prompts got no answer ({failed[0]})",
            "run the same command again: the others are kept",
        )


def _chat(row: Example, sampler: Sampler, seed: int, draw: int, system: str | None) -> Chat:
    drawn: dict[str, JsonValue] = {"temperature": sampler.temperature}
    if sampler.temperature > 0:
        drawn["seed"] = seed_of(seed, "sampling", row.uid, draw) % SEEDS
        if sampler.top_p < 1:
            drawn["top_p"] = sampler.top_p
    if sampler.stop:
        drawn["stop"] = list(sampler.stop)
    return Chat(tuple(messages(row, system)), sampler.max_new_tokens, drawn, draw)


def _completion(answer: Answer, sampler: Sampler) -> Completion:
    text = before(answer.text, sampler)
    if text is not None:
        return Completion(text.strip(), "stop", answer.answered)
    return Completion(answer.text.strip(), answer.finish_reason or "stop", answer.answered)
