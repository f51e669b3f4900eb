"""A hub of data sets on this machine, with what a client of the real one asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlparse

COMMIT = "c" * 40
"""The one commit every repository has."""


def card(config: str, **splits: str) -> bytes:
    """Give a README that says which file is which split."""
    files = "".join(f"  - split: {name}\n    path: {path}\n" for name, path in splits.items())
    return f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n".encode()


@contextmanager
def serving(
    repositories: Mapping[str, Mapping[str, bytes]], gated: tuple[str, ...] = ()
) -> Iterator[str]:
    """Serve files by repository and path, and give the hub's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path).strip("/").removeprefix("api/")
            _, owner, name, verb, revision, *inside = [*path.split("/"), "", "", "", ""]
            repository, file = f"{owner}/{name}", "/".join(filter(None, inside))
            files = repositories.get(repository)
            if files is None:
                return self.answer(401, error="RepoNotFound")
            if verb == "resolve" and repository in gated:
                return self.answer(401, error="GatedRepo")
            if revision not in ("", COMMIT):
                return self.answer(404, error="RevisionNotFound")
            if verb == "resolve":
                known = file in files
                return self.answer(200, files[file]) if known else self.answer(404)
            if verb == "tree":
                said = [
                    {"type": "file", "path": one, "size": len(text), "oid": _hash(text)}
                    for one, text in files.items()
                    if one.startswith(file)
                ]
            else:
                said = {"id": repository, "sha": COMMIT, "tags": [], "siblings": []}
            return self.answer(200, json.dumps(said).encode())

        def answer(self, code: int, body: bytes = b"{}", error: str = "EntryNotFound") -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            if code == 200:
                self.send_header("ETag", f'"{_hash(body)}"')
            else:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _hash(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()
