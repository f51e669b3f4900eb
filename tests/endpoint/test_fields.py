"""An endpoint's fields: what is refused, what enters a key, where a key comes from."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.api import Fields
from holdfast.api.fields import decode
from holdfast.endpoint import Endpoint, Prices
from holdfast.errors import ConfigError

HERE = "http://127.0.0.1:8000/v1"


class Asker(Fields):
    """A method that asks an endpoint, as judges do."""

    endpoint: Endpoint


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"base_url": HERE}, "judge.endpoint.model: is required; add it"),
        ({"model": "m"}, "judge.endpoint.base_url: is required; add it"),
        (
            {"model": "m", "base_url": "127.0.0.1:8000"},
            "judge.endpoint.base_url: got '127.0.0.1:8000'; it should be an address, such as "
            "http://127.0.0.1:8000/v1",
        ),
        (
            {"model": "m", "base_url": "https://me:secret@host/v1"},
            "judge.endpoint.base_url: holds more than an address; put the key into an "
            "environment variable and name that in `key_env`",
        ),
        (
            {"model": "m", "base_url": "https://host/v1?api-key=secret"},
            "judge.endpoint.base_url: holds more than an address; put the key into an "
            "environment variable and name that in `key_env`",
        ),
        (
            {"model": "m", "base_url": HERE, "budget_money": 1.0},
            "judge.endpoint.budget_money: cannot be kept without prices; write `prices: "
            "{input: 0.5, output: 1.5}`, per million tokens",
        ),
        (
            {"model": "m", "base_url": HERE, "extra": {"stream": True}},
            "judge.endpoint.extra.stream: is said by another field; leave it out",
        ),
    ],
)
def test_what_cannot_be_is_one_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(Asker, {"endpoint": fields}, "judge")
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://localhost:8080/v1", True),
        ("http://[::1]:8080/v1", True),
        ("http://10.0.0.1/v1", False),
        ("https://127.0.0.1.example.org/v1", False),
    ],
)
def test_what_is_this_machine(address: str, here: bool) -> None:
    assert Endpoint(model="m", base_url=address).on_this_machine is here


def test_only_the_model_its_server_and_what_is_sent_besides_are_in_keys() -> None:
    plain = Endpoint(model="m", base_url=HERE)
    assert plain.key_fields() == {"model": "m", "extra": {}, "base_url": HERE}
    other = Endpoint(
        model="m", base_url=HERE, key_env="X", concurrency=2, timeout=1.0,
        retries=0, wait=1.0, budget_tokens=9, budget_money=1.0, limit="max_completion_tokens",
        prices=Prices(input=1.0, output=2.0), cache="there",
    )  # fmt: skip
    assert other.key_fields() == plain.key_fields()
    assert plain.with_(extra={"top_k": 1}).key_fields() != plain.key_fields()


def test_a_server_is_told_by_its_address_or_by_the_name_its_user_gives() -> None:
    """Two servers may both call what they serve `default`."""
    here = Endpoint(model="default", base_url=HERE)
    there = here.with_(base_url="http://10.0.0.1/v1")
    assert here.key_fields() != there.key_fields()
    assert there.with_(served_as=HERE).key_fields() == here.key_fields()
    named = here.with_(served_as="mine")
    assert named.key_fields() == there.with_(served_as="mine").key_fields()
    assert named.key_fields() != here.key_fields()


def test_a_key_comes_from_the_variable_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("MINE", " placeholder-key\n")
    there = Endpoint(model="m", base_url="https://host/v1")
    assert there.with_(key_env="MINE").key() == "placeholder-key"
    assert there.with_(key_env=None).key() is None
    assert there.with_(base_url=HERE).key() is None
    with pytest.raises(ConfigError) as caught:
        there.key()
    assert str(caught.value) == (
        "endpoint.key_env: no key in the environment variable 'OPENAI_API_KEY'; set it there, name "
        "another, or write `key_env: null` if the server needs none"
    )


def test_prices_are_for_a_million_tokens() -> None:
    priced = Endpoint(model="m", base_url=HERE, prices=Prices(input=2.0, output=10.0))
    assert priced.money(500_000, 100_000) == 2.0
    assert Endpoint(model="m", base_url=HERE).money(500_000, 100_000) == 0.0
