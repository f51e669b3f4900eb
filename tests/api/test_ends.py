"""Why an answer ended: each engine's word for it."""

from __future__ import annotations

import pytest

from holdfast.api.ends import ended


@pytest.mark.parametrize(
    ("word", "means"),
    [
        ("stop", "stop"), ("STOP", "stop"), ("eos", "stop"), ("end_turn", "stop"),
        ("length", "length"), ("LENGTH", "length"), ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "content_filter"), ("banana", "banana"), ("", ""),
    ],
)  # fmt: skip
def test_an_end_has_one_word(word: str, means: str) -> None:
    assert ended(word) == means
