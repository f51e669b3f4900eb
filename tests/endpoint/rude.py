"""A server on loopback that misbehaves as it is told, by JSON that is sent to /told.

It prints its port. Cases are told by the words "placeholder prompt N". What it is told:

faults   {"3": ["500", "hang"]}: what happens to a case's first sendings
rate     share of sendings that go wrong by chance, the same chance at each run
replies  {"3": {"content": ..., "finish_reason": ..., "refusal": ...}}, or a whole JSON body
varied   whether no two answers are alike
delay    seconds before an answer; retry_after: what a 429 asks for
usage    whether tokens are counted; facts: what else it lists of a model
models   what it serves; key: what it wants; models_status: what it says to whoever asks for models
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

KINDS = (
    "429", "500", "503", "hang", "drip", "truncated", "text", "html", "empty", "null", "reset",
    "closed",
)  # fmt: skip
BY_CHANCE = tuple(kind for kind in KINDS for _ in range(1 if kind in ("hang", "drip") else 4))
"""What goes wrong by chance: what is waited for is rarer, or a test would do nothing else."""
NEVER_MORE_THAN = 4
"""Sendings of one case that go wrong by chance."""


Tell = Callable[[dict[str, Any]], None]


class Rude:
    """What it was told, and what it saw."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.sendings: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.faulty: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.bodies: list[dict[str, Any]] = []
        self.active = self.most = 0

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tell: Tell
    ) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.one(reader, writer, tell):
                pass
        writer.close()

    async def one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tell: Tell
    ) -> bool:
        """Answer one request; say whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        size = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(size[1])) if size else b""
        key = re.search(r"authorization: bearer (\S+)", head, re.IGNORECASE)
        self.keys.add(key[1] if key else "")
        if path == "/stats":
            send(writer, 200, self.stats())
        elif path == "/told":
            tell(json.loads(body))
            send(writer, 200, {})
        elif self.told.get("key") and self.told["key"] not in head:
            send(writer, 401, {"error": {"message": "wrong key", "code": "invalid_api_key"}})
        elif method == "GET":
            names = self.told.get("models", ["judge-1"])
            status = self.told.get("models_status", 200)
            data = [{"id": name, **self.told.get("facts", {})} for name in names]
            send(writer, status, {"object": "list", "data": data})
        else:
            self.active += 1
            self.most = max(self.most, self.active)
            try:
                return await self.chat(json.loads(body), reader, writer)
            finally:
                self.active -= 1
        await writer.drain()
        return True

    def stats(self) -> dict[str, Any]:
        return {
            "most": self.most,
            "sendings": self.sendings,
            "answered": self.answered,
            "faulty": self.faulty,
            "keys": sorted(self.keys),
            "bodies": self.bodies,
        }

    def fault(self, case: str) -> str | None:
        """Give what goes wrong with this sending of a case."""
        before = self.sendings[case] - 1
        planned = self.told.get("faults", {}).get(case, [])
        if planned:
            return planned[min(before, len(planned) - 1)] or None
        chance = zlib.crc32(f"{case}/{before}".encode()) / 2**32
        if case == "none" or before >= NEVER_MORE_THAN or chance >= self.told.get("rate", 0):
            return None
        return BY_CHANCE[zlib.crc32(f"kind {case}/{before}".encode()) % len(BY_CHANCE)]

    async def chat(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        found = re.search(r"placeholder prompt (\d+)", json.dumps(body["messages"]))
        case = found[1] if found else "none"
        self.sendings[case] += 1
        if self.told.get("keep_bodies"):
            self.bodies.append(body)
        fault = self.fault(case)
        if fault is not None:
            self.faulty[fault] += 1
            return await self.misbehave(fault, reader, writer)
        await asyncio.sleep(self.told.get("delay", 0))
        graded = "<grade>" in json.dumps(body["messages"][0])
        send(writer, 200, self.completion(case, graded=graded))
        await writer.drain()
        self.answered[case] += 1
        return True

    def completion(self, case: str, *, graded: bool = False) -> dict[str, Any]:
        reply = self.told.get("replies", {}).get(case, {})
        if "choices" in reply:
            return reply
        case = f"{case} {sum(self.sendings.values())}" if self.told.get("varied") else case
        content = f"reasons of case {case}\n<manner>helps</manner>\n<score>{score(case)}</score>"
        if graded:
            content = f"reasons of case {case}\n<grade>{grade(case)}</grade>"
        message = {"role": "assistant", "content": reply.get("content", content)}
        message |= {"refusal": reply["refusal"]} if "refusal" in reply else {}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": reply.get("finish_reason", "stop"),
        }
        whole = {"id": "x", "object": "chat.completion", "created": 1, "model": "judge-1"}
        if self.told.get("usage", True):
            whole |= {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
        return {**whole, "choices": [choice]}

    async def misbehave(
        self, fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Do what is wrong; say whether the connection goes on."""
        if fault.isdigit() or ":" in fault:  # "400:code:param"
            status, *words = fault.split(":")
            error = dict(zip(("code", "param"), words, strict=False))
            wait = {"Retry-After": str(self.told.get("retry_after", 0.02))}
            send(writer, int(status), {"error": {"message": "placeholder words", **error}},
                 **(wait if status == "429" else {}))  # fmt: skip
        elif fault == "hang":
            await reader.read()
            return False
        elif fault == "drip":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: 100000\r\n\r\n")
            while not reader.at_eof() and not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.1)
            return False
        elif fault == "truncated":
            text = json.dumps(self.completion("none"))
            send(writer, 200, text[: len(text) // 2])
        elif fault in ("text", "html"):
            kind = {"text": "application/json", "html": "text/html"}[fault]
            send(writer, 200, "<html>placeholder page</html>", kind=kind)
        elif fault == "empty":
            send(writer, 200, {**self.completion("none"), "choices": []})
        elif fault == "null":
            send(writer, 200, "null")
        elif fault == "reset":
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"id": "x", "choi')
            await writer.drain()
            plug = writer.get_extra_info("socket")
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        elif fault == "closed":
            return False
        await writer.drain()
        return True


def score(case: str) -> int:
    """Give the grade of a case: its number decides."""
    return 1 + int(case) % 5 if case.isdigit() else 1


def grade(case: str) -> str:
    """Give the grade of a case to whoever asks for right or wrong: even numbers are wrong."""
    return "wrong" if case.isdigit() and int(case) % 2 == 0 else "right"


def send(
    writer: asyncio.StreamWriter,
    status: int,
    body: Any,
    kind: str = "application/json",
    **more: str,
) -> None:
    data = (body if isinstance(body, str) else json.dumps(body)).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
    head += "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in more.items())
    writer.write(head.encode() + b"\r\n" + data)


class Host:
    """Hands each connection to what was told last."""

    def __init__(self) -> None:
        self.rude = Rude({})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.rude.serve(reader, writer, self.tell)

    def tell(self, told: dict[str, Any]) -> None:
        self.rude = Rude(told)


async def main() -> None:
    server = await asyncio.start_server(Host().serve, "127.0.0.1", 0, limit=2**20, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    # It ends when whoever started it does: then its standard input closes.
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
