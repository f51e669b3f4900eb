"""Whether a server is up: one look at its list of models. Nothing is asked of a model."""

from __future__ import annotations

import urllib.error
import urllib.request

from holdfast.endpoint.fields import Endpoint

SECONDS = 5.0
"""How long a server may take to say which models it has."""
CLOSED = (401, 403)
"""What a server says to a wrong key."""


def reach(endpoint: Endpoint) -> tuple[str, str] | None:
    """Say what is wrong with a server, and what to do; None where it answers.

    Any answer counts but a refused key: not every server lists its models.

    Raises:
        ConfigError: it needs a key, and there is none.
    """
    key = endpoint.key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}  # spelling: theirs
    request = urllib.request.Request(f"{endpoint.base_url}/models", headers=headers)
    proxies = urllib.request.ProxyHandler({} if endpoint.on_this_machine else None)
    try:
        with urllib.request.build_opener(proxies).open(request, timeout=SECONDS):
            return None
    except urllib.error.HTTPError as error:
        if error.code not in CLOSED:
            return None
        told = f"{endpoint.base_url} does not take the key ({error.code})"
        return told, f"check the environment variable '{endpoint.key_env}'"
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", None) or error
        return (
            f"{endpoint.base_url} does not answer ({cause})",
            "start the server, or mend base_url",
        )
