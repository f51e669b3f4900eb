"""How bytes and plain data are broken: noise, cuts, and values of a kind nobody expects there."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

HOSTILE = [
    "\x1b[31m", "\u202e", "\ud800", "\0", "=1+1", "9" * 5000, "[" * 3000, "{" * 3000, "-1", "nan",
    "1e999", "null", "~", "'", '"', "&a [*a]", "&a [1]\n- [*a, *a, *a]", "!!python/object:x {}",
    "\t", "\r\n", "a" * 300, "2" + "0" * 19, "2024-99-99", "? []", "%YAML 9.9", "", "\ufeff", "..",
]  # fmt: skip
"""Fragments that broke some program before."""
ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "",
    " ", "x", "a" * 300, "\ud800", "\x1b[31m", "../../x", "/dev/zero", [], {}, [[]],
    [None], ["x", "x"], {"a": {}}, {"": None}, "=1+1", "1e5", "{{ 1/0 }}",
]  # fmt: skip
"""Values of every kind."""


def noise(data: bytes, draw: random.Random) -> bytes:
    """Give bytes with one to three places changed, cut, doubled or broken."""
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1)
        to = min(len(data), at + draw.randint(0, 12))
        new = draw.choice(HOSTILE).encode("utf-8", "surrogatepass")
        data = draw.choice(
            [
                data[:at] + new + data[to:],
                data[:at] + data[to:],
                data[:at] + data[at:to] * 2 + data[to:],
                data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :],
            ]
        )
    return data


def odd(data: Any, draw: random.Random) -> Any:
    """Give plain data with one to two values replaced, left out, doubled or named otherwise."""
    data = copy.deepcopy(data)
    for _ in range(draw.randint(1, 2)):
        places = list(_places(data))
        if not places:
            return draw.choice(ODD)
        owner, key = draw.choice(places)
        way = draw.randrange(6)
        if way == 0:
            del owner[key]
        elif way == 1 and isinstance(owner, list):
            owner.insert(key, copy.deepcopy(owner[key]))
        elif way == 1 and isinstance(owner, dict):
            owner[draw.choice(["x", "", "a" * 300, f"{key}s"])] = owner.pop(key)
        elif way == 2:
            owner[key] = [owner[key]]
        else:
            owner[key] = copy.deepcopy(draw.choice(ODD))
    return data


def _places(data: Any) -> Any:
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in list(items):
        yield data, key
        if isinstance(value, dict | list):
            yield from _places(value)


def json_text(data: Any, draw: random.Random) -> bytes:
    """Give plain data as JSON that is broken in its values or in its bytes."""
    if draw.random() < 0.7:
        return json.dumps(odd(data, draw), indent=1).encode("utf-8", "surrogatepass")
    return noise(json.dumps(data, indent=1).encode(), draw)


def corrupted(data: bytes, draw: random.Random) -> bytes | None:
    """Give a file's bytes with a bit turned, cut, swapped, emptied; None: it is deleted."""
    at = draw.randrange(len(data)) if data else 0
    rows = data.splitlines(keepends=True)
    bit = bytes([data[at] ^ (1 << draw.randrange(8))]) if data else b"x"
    ways = [
        data[:at] + bit + data[at + 1 :],
        data[:at] + bit + data[at + 1 :],
        data[:at],
        b"".join(reversed(rows)),
        data[:at] + data[at + 1 :],
        b"".join(rows[:-1]),
        data + rows[-1] if rows else b"\n",
        b"",
        None,
    ]
    return draw.choice(ways)
