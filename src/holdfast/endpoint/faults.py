"""What can go wrong with a request, sorted by what to do: wait and send again, give up, or stop."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from holdfast.errors import ConfigError, EndpointError

if TYPE_CHECKING:
    from pathlib import Path

    import openai

    from holdfast.endpoint.fields import Endpoint

LONGEST_WAIT = 120.0
"""Seconds that a server's Retry-After may ask for; source: openai's own client."""
PASSING = (408, 409, 425, 429)
"""Statuses below 500 after which the same request may succeed; source: openai's own client."""
REFUSING = ("content_filter", "content_policy_violation")
"""Codes of a server that will not read a request; source: Azure OpenAI and OpenAI."""
SPENT = "insufficient_quota"
"""Code of an account without money, which no waiting mends; source: OpenAI."""
UNKNOWN = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
"""Codes of a server that does not take a field; source: OpenAI."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong with one sending; nothing in it quotes what was sent or answered."""

    what: str
    """In a few words."""
    passing: bool
    """Whether the same request may succeed later."""
    paid: bool = False
    """Whether the server may count its tokens all the same."""
    wait: float | None = None
    """Seconds that the server asks to wait."""
    refused: bool = False
    """Whether the server will not read such a text."""
    unknown: str | None = None
    """The field that the server does not take, or "" where it does not say which."""


def sort(error: Exception, endpoint: Endpoint, served: tuple[str, ...]) -> Fault:
    """Give what went wrong; an error that holds for every request is raised in one line.

    Args:
        served: the models that the server lists, as far as it is known.

    Raises:
        ConfigError: wrong key, a model that the server does not serve.
        EndpointError: the account's quota is spent.
        Exception: what is no fault of a request is raised as it is.
    """
    import json

    import openai

    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Fault(f"no whole answer within {endpoint.timeout:g} s", passing=True, paid=True)
    if isinstance(error, openai.APIStatusError):
        return _status(error, endpoint, served)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        name = type(cause).__name__ if cause else type(error).__name__
        return Fault(f"the connection failed ({name})", passing=True, paid=not unreached(error))
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return Fault("an answer that is no JSON", passing=True, paid=True)
    raise error


def unreached(error: Exception) -> bool:
    """Say whether a connection was never made, so that nothing can have been sent."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")


def _status(error: openai.APIStatusError, endpoint: Endpoint, served: tuple[str, ...]) -> Fault:
    status = error.status_code
    code, param, kind = (_word(getattr(error, name, None)) for name in ("code", "param", "type"))
    word = kind if code in ("", str(status)) else code  # llama.cpp's code repeats the status
    what = f"HTTP {status}" + (f" ({word})" if word else "")
    if status in (401, 403):
        raise wrong_key(endpoint, status)
    if status == 404:
        raise not_served(endpoint, served)
    if code == SPENT:
        raise EndpointError(
            "endpoint",
            f"{endpoint.base_url} has no quota left ({code})",
            "what it answered is kept; raise the account's quota and run the same command again",
        )
    if code in REFUSING:
        return Fault(what, passing=False, refused=True)
    if code in UNKNOWN:
        return Fault(what, passing=False, unknown=param)
    wait = retry_after(error.response.headers)
    return Fault(what, passing=status in PASSING or status >= 500, wait=wait)


def _word(value: object) -> str:
    """Give what a server says where it is one plain word: anything longer may quote a prompt."""
    return value if isinstance(value, str) and re.fullmatch(r"[\w.\-]{1,60}", value) else ""


def wrong_key(endpoint: Endpoint, status: int) -> ConfigError:
    """Give the error for a server that does not let this user in."""
    if endpoint.key() is None:
        what, todo = "wants a key and got none", "name the variable that holds it in `key_env`"
    else:
        what = f"does not take the key in '{endpoint.key_env}'"
        todo = "put the right one there, or ask for access to the model"
    return ConfigError("endpoint.key_env", f"{endpoint.base_url} {what} (HTTP {status})", todo)


def not_served(endpoint: Endpoint, served: tuple[str, ...]) -> ConfigError:
    """Give the error for a model that the server does not have; it names up to five it has."""
    todo = "check the name and `base_url`"
    if endpoint.model in served:
        return ConfigError(
            "endpoint.base_url",
            f"{endpoint.base_url} lists '{endpoint.model}' and knows no chat of it (HTTP 404)",
            "check the address and what that model is for",
        )
    if served:
        more = f" and {len(served) - 5} more" if len(served) > 5 else ""
        todo = f"it serves {', '.join(served[:5])}{more}"
    return ConfigError(
        "endpoint.model", f"{endpoint.base_url} does not serve '{endpoint.model}'", todo
    )


def other_weights(endpoint: Endpoint, cache: Path) -> ConfigError:
    """Give the error for a name behind which a server has put another model."""
    return ConfigError(
        "endpoint.model",
        f"{endpoint.base_url} serves other weights as '{endpoint.model}' than when {cache} was "
        "written",
        "set `endpoint.served_as` to a name for the new ones",
    )


def silent(endpoint: Endpoint, what: str) -> ConfigError:
    """Give the error for a server that cannot be reached at all."""
    return ConfigError(
        "endpoint.base_url",
        f"{endpoint.base_url} does not answer ({what})",
        "start the server, or check the address",
    )


def too_patient(endpoint: Endpoint, wait: float) -> EndpointError:
    """Give the error for a server that asks to wait longer than a run should."""
    return EndpointError(
        "endpoint",
        f"{endpoint.base_url} asks to wait {wait:.0f} s",
        "what it answered is kept; run the same command again after that time",
    )


def not_taken(endpoint: Endpoint, name: str) -> ConfigError:
    """Give the error for a field, called `name` if anything, that the server does not take."""
    todo = "leave it out, or set it to null"
    if name == "max_tokens":
        todo = "write `limit: max_completion_tokens`"
    known = f"'{name}'" if name else "a field of the request"
    return ConfigError("endpoint", f"model '{endpoint.model}' does not take {known}", todo)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Give the seconds that a Retry-After asks for, as a number or a date; None for none."""
    said = headers.get("retry-after", "").strip()
    try:
        wait = float(said)
    except ValueError:
        try:
            wait = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, wait) if wait == wait else None
