"""What judges behind an endpoint are asked in tests."""

from __future__ import annotations

from typing import Any

from holdfast.api import Exchange


def exchange(number: int = 3, **fields: Any) -> Exchange:
    given = {
        "example_uid": str(number), "system": None, "prompt": f"placeholder prompt {number}",
        "prefill": "", "response": "placeholder answer", "finish_reason": "stop", "meta": {},
    }  # fmt: skip
    return Exchange(**{**given, **fields})
