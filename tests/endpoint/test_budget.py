"""The budget: nothing is sent that could overshoot it, and what it bought is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.endpoint.serving import chat, serving

from holdfast.endpoint import Prices
from holdfast.errors import ConfigError, EndpointError

CASE = sum(chat(10).most)
"""Tokens that a case may take: 25 bytes, 64 for the template, 8 answered."""
COST = 15
"""Tokens that it does take, by the server's count."""


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"budget_tokens": 50},
            "endpoint.budget_tokens: 50 tokens are too few for one case, which may take 97 (89 "
            "sent, 8 answered); raise it",
        ),
        (
            {"budget_money": 0.0001, "prices": Prices(input=1.0, output=10.0)},
            "endpoint.budget_money: 0.0001 is too little for one case, which may cost 0.000169; "
            "raise it",
        ),
    ],
)
def test_too_little_for_one_case_is_one_line_and_sends_nothing(
    fields: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with serving() as server, server.client(tmp_path / "c", **fields) as client:
        for ask in (lambda: client.afford(chat(10)), lambda: client.ask_all([chat(10)])):
            with pytest.raises(ConfigError) as caught:
                ask()
            assert str(caught.value) == line
        assert server.stats()["sendings"] == {}


def test_a_spent_budget_stops_between_two_answers_and_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    chats = [chat(number) for number in range(10, 60)]
    budget = 20 * COST + CASE
    with serving(delay=0.01) as server:
        with server.client(tmp_path / "c", budget_tokens=budget) as client:
            got = []
            with pytest.raises(EndpointError) as caught:
                got.extend(client.ask(chats))
            spent = client.spent()
        assert len(got) == 21  # the last one finds just room enough
        assert (spent.sent, spent.answered) == (210, 105)
        assert str(caught.value) == (
            f"endpoint.budget_tokens: 315 of {budget} tokens are spent on 21 answers, which are "
            "kept, and the next may take 97 tokens; raise it, and the same command goes on"
        )
        with server.client(tmp_path / "c", budget_tokens=10_000) as client:
            assert len(client.ask_all(chats)) == 50
        assert sum(server.stats()["sendings"].values()) == 50


def test_a_spent_sum_of_money_says_so(tmp_path: Path) -> None:
    prices = {"prices": Prices(input=1000.0, output=0.0), "budget_money": 0.2}
    with (
        serving() as server,
        server.client(tmp_path / "c", **prices) as client,
        pytest.raises(EndpointError) as caught,
    ):
        client.ask_all([chat(number) for number in range(10, 60)])
    assert str(caught.value) == (
        "endpoint.budget_money: 0.12 of 0.2 is spent on 12 answers, which are kept, and the next "
        "may take 0.089; raise it, and the same command goes on"
    )


def test_a_budget_holds_for_all_runs_on_a_cache(tmp_path: Path) -> None:
    budget = {"budget_tokens": 5 * COST + CASE}
    with serving() as server:
        for done in (6, 0):
            with server.client(tmp_path / "c", **budget) as client:
                got = []
                with pytest.raises(EndpointError):
                    got.extend(client.ask([chat(n) for n in range(10 * (done == 0), 20)]))
        assert sum(server.stats()["answered"].values()) == 6


def test_what_was_lost_on_the_way_back_counts_as_spent(tmp_path: Path) -> None:
    with (
        serving(faults={"10": ["reset", ""], "11": ["500", ""]}) as server,
        server.client(tmp_path / "c") as client,
    ):
        client.ask_all([chat(10), chat(11)])
        spent = client.spent()
    assert (spent.requests, spent.guessed) == (4, 1)
    assert spent.sent + spent.answered == CASE + 2 * COST


def test_a_server_that_counts_nothing_is_estimated(tmp_path: Path) -> None:
    with serving(usage=False) as server, server.client(tmp_path / "c") as client:
        (answer,) = client.ask_all([chat(10)])
        assert answer.guessed
        assert (answer.sent, answer.answered) == (7, 15)  # 25 and 59 bytes
        assert client.spent().guessed == 1


def test_a_reply_that_costs_more_than_it_may_and_passes_the_budget_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a server goes beyond the limit that it was asked for."""
    reply = {"choices": [{"message": {"content": "placeholder"}}]}
    reply["usage"] = {"prompt_tokens": 900, "completion_tokens": 200}
    with serving(replies={"10": reply}) as server:
        with server.client(tmp_path / "c", budget_tokens=1000) as client:
            assert len(client.ask_all([chat(10)])) == 1
        assert caplog.messages == [
            "the budget was passed by the last reply: 1100 of 1000 tokens are spent"
        ]
        with (
            pytest.raises(EndpointError),
            server.client(tmp_path / "c", budget_tokens=1000) as client,
        ):
            client.ask_all([chat(11)])
        assert server.stats()["sendings"] == {"10": 1}
