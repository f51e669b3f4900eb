"""What a study says of its sides is checked before it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.report.shared import whole

PAIR: dict[str, Any] = {"first": "a", "second": "b", "exact": 0, "near": None, "rows": [["x", "y"]]}
SAID: dict[str, Any] = {"prompts": {"a": 1, "b": 2}, "pairs": [PAIR], "threshold": 0.7}


def test_what_a_study_writes_is_whole() -> None:
    assert whole(SAID)
    assert whole(None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": ["a"]},
        {"second": {}},
        {"first": "c"},
        {"exact": -1},
        {"near": "1"},
        {"rows": [["x"]]},
        {"rows": [["x", 1]]},
    ],
)
def test_a_pair_that_is_wrong_in_any_way_is_not(wrong: dict[str, Any]) -> None:
    assert not whole(SAID | {"pairs": [PAIR | wrong]})


@pytest.mark.parametrize("name", list(PAIR))
def test_a_pair_that_lacks_something_is_not(name: str) -> None:
    assert not whole(SAID | {"pairs": [{k: v for k, v in PAIR.items() if k != name}]})
