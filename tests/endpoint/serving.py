"""Start the server that misbehaves (`rude.py`), and make clients of it."""

from __future__ import annotations

import json
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
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{self.port}/stats") as reply:
            return json.load(reply)

    def endpoint(self, cache: Path, **fields: Any) -> Endpoint:
        """Give fields for it that lose no time."""
        quick = {"wait": 0.01, "timeout": 5.0, "key_env": None, "cache": str(cache)}
        return Endpoint(**{"model": "judge-1", "base_url": self.url, **quick, **fields})

    def client(self, cache: Path, **fields: Any) -> Client:
        return Client(self.endpoint(cache, **fields), OWNER)


@contextmanager
def serving(**told: Any) -> Iterator[Server]:
    """Give a server that does what it is told, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("rude.py")), json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Server(int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


def chat(number: int, **fields: Any) -> Chat:
    return Chat(({"role": "user", "content": f"placeholder prompt {number}"},), 8, **fields)
