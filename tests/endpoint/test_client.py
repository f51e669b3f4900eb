"""The client against a server that misbehaves: what is sent again, what fails, what stops all."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.endpoint.rude import KINDS
from tests.endpoint.serving import chat, nobody, serving

from holdfast.endpoint import Answer
from holdfast.errors import ConfigError, EndpointError

GOOD = "reasons of case 3\n<manner>helps</manner>\n<score>4</score>"


def short(fault: str) -> float:
    """Give a time-out that only what never ends should reach."""
    return 1.0 if fault in ("hang", "drip") else 20.0


@pytest.mark.parametrize("fault", KINDS)
def test_a_fault_that_passes_is_sent_again(fault: str, tmp_path: Path) -> None:
    with serving(faults={"3": [fault, fault, ""]}) as server:
        with server.client(tmp_path / "c", timeout=short(fault)) as client:
            (answer,) = client.ask_all([chat(3)])
        assert (answer.text, answer.failed, answer.sent, answer.answered) == (GOOD, "", 10, 5)
        assert server.stats()["sendings"] == {"3": 3}


TWICE = ", 2 times"


@pytest.mark.parametrize(
    ("fault", "told", "sent"),
    [
        ("500", "HTTP 500" + TWICE, 2),
        ("429", "HTTP 429" + TWICE, 2),
        ("hang", "no whole answer within 1 s" + TWICE, 2),
        ("drip", "no whole answer within 1 s" + TWICE, 2),
        ("truncated", "an answer that is no JSON" + TWICE, 2),
        ("text", "an answer that is no JSON" + TWICE, 2),
        ("html", "an answer without choices" + TWICE, 2),
        ("empty", "an answer without choices" + TWICE, 2),
        ("reset", "the connection failed (ReadError)" + TWICE, 2),
        ("400:context_length_exceeded", "HTTP 400 (context_length_exceeded)", 1),
        ("400:a long word with the prompt in it", "HTTP 400", 1),
        ("422", "HTTP 422", 1),
    ],
)
def test_a_request_that_fails_costs_itself_alone(
    fault: str, told: str, sent: int, tmp_path: Path
) -> None:
    with serving(faults={"3": [fault]}) as server:
        with server.client(tmp_path / "c", timeout=short(fault), retries=1) as client:
            first, second = client.ask_all([chat(3), chat(4)])
            assert first == Answer(failed=told)
            assert second.text.endswith("<score>5</score>")
            again = client.ask_all([chat(3)])  # a failure is not kept
        assert again == [first]
        assert server.stats()["sendings"] == {"3": 2 * sent, "4": 1}


def test_a_server_that_asks_to_wait_is_obeyed(tmp_path: Path) -> None:
    with (
        serving(faults={"3": ["429", ""]}, retry_after=1) as server,
        server.client(tmp_path / "c") as client,
    ):
        began = time.monotonic()
        assert client.ask_all([chat(3)])[0].text == GOOD
        assert time.monotonic() - began >= 1.0  # 0.01 by its own count


STOPS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"faults": {"3": ["401"]}},
        ConfigError,
        "endpoint.key_env: {url} wants a key and got none (HTTP 401); name the variable that holds "
        "it in `key_env`",
    ),
    (
        {"faults": {"3": ["404"]}, "models": ["judge-1", *"abcdef"]},
        ConfigError,
        "endpoint.base_url: {url} lists 'judge-1' and knows no chat of it (HTTP 404); check the "
        "address and what that model is for",
    ),
    (
        {"faults": {"3": ["404"]}, "models_status": 404},
        ConfigError,
        "endpoint.model: {url} does not serve 'judge-1'; check the name and `base_url`",
    ),
    (
        {"faults": {"3": ["400:unsupported_value:temperature"]}},
        ConfigError,
        "endpoint: model 'judge-1' does not take 'temperature'; leave it out, or set it to null",
    ),
    (
        {"faults": {"3": ["400:unsupported_parameter:max_tokens"]}},
        ConfigError,
        "endpoint: model 'judge-1' does not take 'max_tokens'; write `limit: "
        "max_completion_tokens`",
    ),
    (
        {"faults": {"3": ["429:insufficient_quota"]}},
        EndpointError,
        "endpoint: {url} has no quota left (insufficient_quota); what it answered is kept; raise "
        "the account's quota and run the same command again",
    ),
    (
        {"faults": {"3": ["429"]}, "retry_after": 7200},
        EndpointError,
        "endpoint: {url} asks to wait 7200 s; what it answered is kept; run the same command again "
        "after that time",
    ),
]


@pytest.mark.parametrize(("told", "kind", "line"), STOPS)
def test_what_holds_for_every_request_stops_all(
    told: dict[str, Any], kind: type[Exception], line: str, tmp_path: Path
) -> None:
    with serving(**told) as server, server.client(tmp_path / "c") as client:
        assert client.ask_all([chat(1)])[0].text
        with pytest.raises(kind) as caught:
            client.ask_all([chat(3)])
        assert str(caught.value) == line.format(url=server.url)
        assert client.ask_all([chat(1)])[0].cached


@pytest.mark.parametrize(
    ("told", "fields", "line"),
    [
        (
            {"models": ["small", *"abcdef"]},
            {},
            "endpoint.model: {url} does not serve 'judge-1'; it serves small, a, b, c, d and 2 "
            "more",
        ),
        (
            {"key": "placeholder-key"},
            {},
            "endpoint.key_env: {url} wants a key and got none (HTTP 401); name the variable that "
            "holds it in `key_env`",
        ),
        (
            {"key": "placeholder-key"},
            {"key_env": "WRONG"},
            "endpoint.key_env: {url} does not take the key in 'WRONG' (HTTP 401); put the right "
            "one there, or ask for access to the model",
        ),
        (
            {"models_status": 503},
            {},
            "endpoint.base_url: {url} does not answer (HTTP 503); start the server, or check the "
            "address",
        ),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line_before_any_request(
    told: dict[str, Any],
    fields: dict[str, Any],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WRONG", "other-key")
    with serving(**told) as server:
        with pytest.raises(ConfigError) as caught, server.client(tmp_path / "c", **fields):
            pytest.fail("it was opened")
        assert str(caught.value) == line.format(url=server.url)
        assert server.stats()["sendings"] == {}


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    server = nobody()
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught, server.client(tmp_path / "c"):
        pytest.fail("it was opened")
    assert not (tmp_path / "c").exists()
    assert str(caught.value) == (
        f"endpoint.base_url: {server.url} does not answer (no connection); start the server, or "
        "check the address"
    )
    assert time.monotonic() - began < 5


def test_a_server_does_not_answer_for_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One cache, two servers, one name for two models: each is asked."""
    with caplog.at_level(logging.INFO, "holdfast"), serving() as one, serving() as other:
        for server in (one, other):
            with server.client(tmp_path / "c") as client:
                assert not client.ask_all([chat(3)])[0].cached
        assert other.stats()["sendings"] == {"3": 1}
        assert "already" not in caplog.text
        with other.client(tmp_path / "c", served_as=one.url) as client:  # it has moved there
            assert [answer.cached for answer in client.ask_all([chat(3), chat(4)])] == [True, False]
            assert client.ask_all([chat(4)])[0].cached
    said = [one for one in caplog.messages if "HTTP Request" not in one]
    assert said == [f"1 of 3 answers of 'judge-1' were there already, in {tmp_path / 'c'}"]


@pytest.mark.parametrize("what", ["root", "meta"])
def test_a_server_that_has_other_weights_now_is_refused(what: str, tmp_path: Path) -> None:
    """A local server that was started again with another file."""
    facts = [{"root": "/a"}, {"root": "/b"}]
    if what == "meta":
        facts = [{"meta": {"size": 1, "n_ctx": 9}}, {"meta": {"size": 2, "n_ctx": 9}}]
    with serving(facts=facts[0]) as server:
        with server.client(tmp_path / "c") as client:
            assert client.ask_all([chat(3)])[0].text == GOOD
        server.tell({"facts": facts[0]})
        with server.client(tmp_path / "c") as client:
            assert client.ask_all([chat(3)])[0].cached
        server.tell({"facts": facts[1]})
        with pytest.raises(ConfigError) as caught, server.client(tmp_path / "c"):
            pytest.fail("it was opened")
        assert str(caught.value) == (
            f"endpoint.model: {server.url} serves other weights as 'judge-1' than when "
            f"{tmp_path / 'c'} was written; set `endpoint.served_as` to a name for the new ones"
        )
        with server.client(tmp_path / "c", served_as="the new ones") as client:
            assert not client.ask_all([chat(3)])[0].cached


def test_a_server_without_a_list_of_models_is_asked_all_the_same(tmp_path: Path) -> None:
    with serving(models_status=404) as server, server.client(tmp_path / "c") as client:
        assert client.ask_all([chat(3)])[0].text == GOOD


def test_a_server_that_goes_away_stops_the_run_and_keeps_what_it_said(tmp_path: Path) -> None:
    faults = {str(number): ["503"] for number in range(10, 90)}
    with serving(faults=faults) as server:
        with server.client(tmp_path / "c", retries=1, concurrency=4) as client:
            with pytest.raises(EndpointError) as caught:
                client.ask_all([chat(number) for number in range(90)])
            assert str(caught.value) == (
                f"endpoint: {server.url} answers no more (HTTP 503); what it answered is kept; "
                "run the same command again when it does"
            )
        assert len(server.stats()["sendings"]) < 30


def test_a_key_is_sent_to_who_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "placeholder-key")
    with serving(key="placeholder-key") as server:
        with server.client(tmp_path / "c", key_env="MINE") as client:
            assert client.ask_all([chat(3)])[0].text == GOOD
        assert "placeholder-key" in server.stats()["keys"]
    assert b"placeholder-key" not in (tmp_path / "c").read_bytes()


def test_no_proxy_stands_between_this_machine_and_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{nobody.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        with serving() as server, server.client(tmp_path / "c", timeout=3.0) as client:
            assert client.ask_all([chat(3)])[0].text == GOOD


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    with serving() as server:
        for cached in (False, True):
            with server.client(tmp_path / "c") as client:
                found = client.ask_all([chat(3), chat(4)])
            assert [answer.cached for answer in found] == [cached] * 2
        with server.client(tmp_path / "c") as client:
            new = [chat(3, draw=1), chat(3, sampling={"seed": 1}), chat(4)]
            assert [answer.cached for answer in client.ask_all(new)] == [False, False, True]
        assert server.stats()["sendings"] == {"3": 3, "4": 1}


def test_equal_requests_are_sent_once_also_side_by_side(tmp_path: Path) -> None:
    with serving(delay=0.2) as server:
        with server.client(tmp_path / "c") as client:
            found = client.ask_all([chat(3)] * 5 + [chat(4)] * 5)
        assert len({answer.text for answer in found}) == 2
        assert server.stats()["sendings"] == {"3": 1, "4": 1}


def test_answers_come_as_they_are_ready_and_carry_their_place(tmp_path: Path) -> None:
    with (
        serving(faults={"0": ["hang", ""]}) as server,
        server.client(tmp_path / "c", timeout=1.0, concurrency=2) as client,
    ):
        places = [place for place, _ in client.ask(chat(number) for number in range(8))]
    assert places[-1] == 0
    assert sorted(places) == list(range(8))


def test_no_more_is_on_its_way_than_said_and_chats_are_taken_when_there_is_room(
    tmp_path: Path,
) -> None:
    taken = 0

    def chats() -> Any:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield chat(number)

    with serving(delay=0.05) as server:
        with server.client(tmp_path / "c", concurrency=3) as client:
            for given, _ in enumerate(client.ask(chats())):
                assert taken - given <= 3
        assert server.stats()["most"] == 3


def test_whoever_stops_taking_answers_cancels_the_rest(tmp_path: Path) -> None:
    with serving(faults={"1": ["hang"]}) as server:
        with server.client(tmp_path / "c", timeout=60.0) as client:
            began = time.monotonic()
            answers = client.ask([chat(0), chat(1)])
            assert next(answers)[0] == 0
            answers.close()  # type: ignore[attr-defined]
        assert time.monotonic() - began < 10


def in_a_thread(work: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failed == []


def in_a_loop(work: Callable[[], None]) -> None:
    async def run() -> None:
        work()

    asyncio.run(run())


@pytest.mark.parametrize("place", [in_a_thread, in_a_loop])
def test_it_works_from_a_thread_and_where_a_loop_is_running(
    place: Callable[[Callable[[], None]], None], tmp_path: Path
) -> None:
    def work() -> None:
        with serving() as server, server.client(tmp_path / "c") as client:
            assert client.ask_all([chat(3)])[0].text == GOOD

    place(work)


def test_odd_answers_are_read_for_what_they_are(tmp_path: Path) -> None:
    replies = {
        "1": {"content": None},
        "2": {"content": None, "refusal": "placeholder refusal"},
        "3": {"content": "", "finish_reason": "content_filter"},
        "4": {"content": ["placeholder"]},
        "5": {"content": "placeholder", "finish_reason": "length"},
        "6": {"choices": [{"message": {"content": "one"}}, {"message": {"content": "two"}}]},
    }
    faults = {"7": ["400:content_filter"]}
    with (
        serving(replies=replies, faults=faults) as server,
        server.client(tmp_path / "c") as client,
    ):
        found = client.ask_all([chat(number) for number in range(1, 8)])
        again = client.ask_all([chat(7)])
    said = [(one.text, one.finish_reason, one.refused) for one in found]
    assert said == [
        ("", "stop", False),
        ("placeholder refusal", "stop", True),
        ("", "content_filter", True),
        ("", "stop", False),
        ("placeholder", "length", False),
        ("one", "", False),
        ("", "content_filter", True),
    ]
    assert found[5].others == ("two",)
    assert not any(one.failed for one in found)
    assert again[0].cached  # a text that it will not read is an answer


def test_nothing_of_what_is_said_gets_into_a_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "placeholder-key")
    faults = {str(i): [kind, ""] for i, kind in enumerate(KINDS)}
    with (
        caplog.at_level(logging.INFO),
        serving(faults=faults, usage=False) as server,
        server.client(tmp_path / "c", key_env="MINE", timeout=1.0) as client,
    ):
        client.ask_all([chat(number) for number in range(len(KINDS) + 1)])
    assert "counts no tokens: they are estimated, one for every 4 bytes" in caplog.text
    for word in ("placeholder", "reasons", "score"):
        assert word not in caplog.text


def test_a_message_of_a_server_is_quoted_nowhere(tmp_path: Path) -> None:
    with (
        serving(faults={"3": ["500"]}) as server,
        server.client(tmp_path / "c", retries=0) as client,
    ):
        assert "words" not in client.ask_all([chat(3)])[0].failed
