"""Where an OpenAI-compatible server is, how it is asked, and what that may cost: fields."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from holdfast.api import LATER, NO_EFFECT, Count, Fields, NotNegative, Positive
from holdfast.errors import ConfigError

SENT = ("model", "messages", "max_tokens", "max_completion_tokens", "stream")
"""What `extra` may not say, since a request says it already."""


class Prices(Fields):
    """What the server takes for a million tokens, in one currency of the user's."""

    input: NotNegative
    """For a million tokens that are sent."""
    output: NotNegative
    """For a million tokens that are answered."""


class Endpoint(Fields):
    """An OpenAI-compatible server: OpenAI's, vLLM, SGLang, llama.cpp's server and others.

    A method that asks one has it as its field `endpoint`. Many servers call whatever they serve
    `default`, so the model's name alone tells no two apart: the address is in every key, or
    `served_as` in its place.
    """

    model: Annotated[str, Field(pattern=r"\S")]
    """The model, as the server calls it."""
    base_url: str
    """The server's address up to its version, such as http://127.0.0.1:8000/v1."""
    served_as: Annotated[str | None, Field(pattern=r"\S", json_schema_extra=LATER)] = None
    """Names what answers, in keys, in place of the address: set it where the same model moves to
    another address (the old address will do), or where another model comes to this one."""
    key_env: Annotated[str | None, Field(json_schema_extra=NO_EFFECT)] = "OPENAI_API_KEY"
    """The environment variable that holds the key; None where the server wants none. A server on
    this machine needs none either way. The name is openai's own."""
    extra: Mapping[str, JsonValue] = {}
    """Further fields of every request, as the server calls them, such as `top_k`."""
    limit: Annotated[
        Literal["max_tokens", "max_completion_tokens"], Field(json_schema_extra=NO_EFFECT)
    ] = "max_tokens"
    """What the server calls the token limit. Local servers know `max_tokens`; OpenAI's reasoning
    models take `max_completion_tokens` alone."""
    concurrency: Annotated[Count, Field(json_schema_extra=NO_EFFECT)] = 16
    """Requests that are on their way at once, in each process; ours."""
    timeout: Annotated[Positive, Field(json_schema_extra=NO_EFFECT)] = 120.0
    """Seconds that one request may take as a whole, however the bytes drip; ours."""
    retries: Annotated[int, Field(ge=0, json_schema_extra=NO_EFFECT)] = 6
    """Times that a request is sent again after a fault that may pass; ours, about a minute."""
    wait: Annotated[Positive, Field(json_schema_extra=NO_EFFECT)] = 0.5
    """Seconds before the first of them; each later one waits twice as long, at most a minute,
    shortened by chance to between half and all. A server's Retry-After goes first. Source: openai's
    own client."""
    budget_tokens: Annotated[Count | None, Field(json_schema_extra=NO_EFFECT)] = None
    """Tokens, sent and answered, that all answers of one cache may cost; None sets no bound."""
    budget_money: Annotated[Positive | None, Field(json_schema_extra=NO_EFFECT)] = None
    """The same in the currency of `prices`."""
    prices: Annotated[Prices | None, Field(json_schema_extra=NO_EFFECT)] = None
    """What tokens cost; None counts tokens alone."""
    cache: Annotated[str | None, Field(json_schema_extra=NO_EFFECT)] = None
    """The file that keeps every answer; None makes it one of the user's cache folder."""

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        """Refuse what is no address, or holds what must not be shown."""
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and bool(parts.hostname)
            good = good and (parts.port is None or parts.port > 0)
        except ValueError:
            good, parts = False, urlsplit("")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                "endpoint.base_url",
                "holds more than an address",
                "put the key into an environment variable and name that in `key_env`",
            )
        if not good:
            raise ValueError("an address, such as http://127.0.0.1:8000/v1")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse fields that cannot go together."""
        if self.budget_money is not None and self.prices is None:
            raise ConfigError(
                "endpoint.budget_money",
                "cannot be kept without prices",
                "write `prices: {input: 0.5, output: 1.5}`, per million tokens",
            )
        for name in SENT:
            if name in self.extra:
                raise ConfigError(
                    f"endpoint.extra.{name}", "is said by another field", "leave it out"
                )
        return self

    def key_fields(self) -> dict[str, Any]:
        """Give what can change an answer: the model, what is sent besides, and who answers."""
        plain = super().key_fields()
        named = plain.pop("served_as", None)
        return plain if named is None else plain | {"base_url": named}

    @property
    def on_this_machine(self) -> bool:
        """Say whether the server runs on this machine: it is reached by no proxy."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    def key(self) -> str | None:
        """Give the key, read anew each time and kept nowhere; None where none is needed.

        Raises:
            ConfigError: the server is elsewhere and the variable holds no key.
        """
        if self.key_env is None:
            return None
        found = os.environ.get(self.key_env, "").strip()
        if not found and not self.on_this_machine:
            raise ConfigError(
                "endpoint.key_env",
                f"no key in the environment variable '{self.key_env}'",
                "set it there, name another, or write `key_env: null` if the server needs none",
            )
        return found or None

    def money(self, sent: float, answered: float) -> float:
        """Give what tokens cost in the currency of `prices`; 0 where nothing is known."""
        if self.prices is None:
            return 0.0
        return (sent * self.prices.input + answered * self.prices.output) / 1e6
