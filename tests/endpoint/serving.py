"""Start the server that misbehaves (`rude.py`), and make clients of it."""

from __future__ import annotations

import atexit
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.endpoint import Chat, Client, Endpoint

OWNER = {"kind": "judge", "name": "tester", "version": 1, "fields": {}}


@dataclass
class Server:
    """A running server."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> Any:
        """Give what it saw so far."""
        return self._ask("/stats", None)

    def tell(self, told: dict[str, Any]) -> None:
        """Tell it what to do from now on; it forgets what it saw."""
        self._ask("/told", json.dumps(told).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{self.port}{path}", body) as reply:
            return json.load(reply)

    def endpoint(self, cache: Path, **fields: Any) -> Endpoint:
        """Give fields for it that lose no time."""
        quick = {"wait": 0.01, "timeout": 20.0, "key_env": None, "cache": str(cache)}
        return Endpoint(**{"model": "judge-1", "base_url": self.url, **quick, **fields})

    def client(self, cache: Path, **fields: Any) -> Client:
        return Client(self.endpoint(cache, **fields), OWNER)


IDLE: list[Server] = []
"""Servers that nobody uses at the moment: starting one takes longer than most tests."""


@contextmanager
def serving(**told: Any) -> Iterator[Server]:
    """Give a server that does what it is told and has seen nothing yet, in another process."""
    server = IDLE.pop() if IDLE else start()
    server.tell(told)
    try:
        yield server
    finally:
        IDLE.append(server)


def start() -> Server:
    """Start a server, which ends with this process."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("rude.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end() -> None:
        process.kill()
        process.communicate()

    atexit.register(end)
    assert process.stdout is not None
    return Server(int(process.stdout.readline()))


def nobody() -> Server:
    """Give a server's place where none is."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return Server(place.getsockname()[1])


def chat(number: int, **fields: Any) -> Chat:
    return Chat(({"role": "user", "content": f"placeholder prompt {number}"},), 8, **fields)
