"""What a probe sees of servers that obey, ignore or refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.endpoint.serving import serving

from holdfast.endpoint import Answer, Chat, Honours
from holdfast.endpoint.probe import SHORT, probe


def obeying(chats: Sequence[Chat]) -> list[Answer]:
    """Answer as a server does that honours everything."""
    found = []
    for chat in chats:
        said = chat.sampling
        text = f"placeholder {said['temperature']} {said.get('seed', 0)}"
        if "response_format" in said:
            text = json.dumps({"placeholder": text})
        found.append(
            Answer(
                text,
                "length",
                5,
                chat.max_tokens,
                others=("placeholder",) if said.get("n") == 2 else (),
                logprobs=(-1.0,) if said.get("logprobs") else None,
            )
        )
    return found


def test_a_server_that_honours_everything() -> None:
    assert probe(obeying) == Honours(True, True, True, True, True, True, True)


def test_a_server_that_says_200_to_all_and_ignores_it() -> None:
    def same(chats: Sequence[Chat]) -> list[Answer]:
        return [Answer("placeholder words", "stop", 5, 2 * SHORT) for _ in chats]

    assert probe(same) == Honours(
        greedy=True,
        temperature=False,
        seed=None,  # nothing varies: no seed can be seen
        n=False,
        logprobs=False,
        max_tokens=False,
        response_format=False,
    )


def test_a_server_that_draws_whatever_it_is_told() -> None:
    def drawn(chats: Sequence[Chat]) -> list[Answer]:
        return [Answer(f"placeholder {place}", "stop", 5, 3) for place, _ in enumerate(chats)]

    found = probe(drawn)
    assert (found.greedy, found.temperature, found.seed) == (False, True, False)


def test_a_server_that_fails_or_is_silent_says_nothing() -> None:
    def failing(chats: Sequence[Chat]) -> list[Answer]:
        return [Answer(failed="HTTP 500") for _ in chats]

    def refusing(chats: Sequence[Chat]) -> list[Answer]:
        return [Answer(failed="HTTP 400 (unsupported_value)") for _ in chats]

    def busy(chats: Sequence[Chat]) -> list[Answer]:
        return [Answer(failed="HTTP 429, 7 times") for _ in chats]

    assert probe(failing) == Honours(None, None, None, None, None, None, None)
    assert probe(busy) == probe(failing)
    assert probe(refusing) == Honours(None, None, None, False, False, False, False)
    assert probe(lambda chats: [Answer() for _ in chats]).greedy is None


def test_a_server_is_tried_once_and_what_was_seen_is_kept(tmp_path: Path) -> None:
    faults = {"none": ["400:unsupported_value:temperature", ""]}
    with serving(faults=faults) as server:
        with server.client(tmp_path / "c", concurrency=1) as client:
            first = client.honours()  # a field that is not taken is no error here
        with server.client(tmp_path / "c") as client:
            assert client.honours() == first
        assert server.stats()["sendings"] == {"none": 9}
    assert (first.greedy, first.temperature, first.n) == (None, False, False)
