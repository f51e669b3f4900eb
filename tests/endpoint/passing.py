"""A server on loopback that passes each request on to another one, and keeps what was asked."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Passing(ThreadingHTTPServer):
    """Where it passes on to, and the bodies of the requests so far."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = target
        self.bodies: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """Pass one request on."""

    server: Passing

    def do_GET(self) -> None:
        self.pass_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(json.loads(body))
        self.pass_on(body)

    def pass_on(self, body: bytes | None) -> None:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server.target + self.path, body, head)
        try:
            with DIRECT.open(request, timeout=600) as reply:
                status, said = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            status, said = error.code, error.read()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def passing(target: str) -> Iterator[Passing]:
    """Pass requests on to `target`, an address without its version."""
    server = Passing(target)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
