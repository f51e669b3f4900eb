"""Groups shared out in exact shares: every side has some, whatever the file's order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.given_files import placeholders

from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.sharing import shared_out
from holdfast.data.sources.local import Local
from holdfast.errors import DataError

SHARES = {Side.ATTACKER: 0.4, Side.ATTACKER_SELECTION: 0.2, Side.EVALUATOR: 0.4}


@given(st.integers(3, 80), st.lists(st.floats(0.01, 10), min_size=3, max_size=3))
def test_shares_are_exact_to_one_group_and_no_side_is_empty(n: int, sizes: list[float]) -> None:
    shares = dict(zip(SHARES, sizes, strict=True))
    names = [f"g{i}" for i in range(n)]
    found = shared_out(names, shares, "x")
    assert found == shared_out([*reversed(names), "g0"], shares, "x")
    counts = Counter(found.values())
    assert sum(counts.values()) == n
    assert min(counts[side] for side in shares) >= 1
    for side, share in shares.items():
        exact = n * share / sum(sizes)
        assert counts[side] <= max(1, exact + 1)


def test_thirty_rows_give_each_side_what_was_said(tmp_path: Path) -> None:
    path = placeholders(tmp_path / "rows.jsonl", 30, response="placeholder answer")
    named = {side.value: share for side, share in SHARES.items()}
    two = [Local(path=str(path), role="harmful", shares=named)]  # type: ignore[arg-type]
    two += [Local(path=str(path), role="refusal", refusal="No.", shares=named)]  # type: ignore[arg-type]
    pool = Pool.of(two)
    for role in (Role.HARMFUL, Role.REFUSAL):
        counts = [sum(row.role is role for row in pool.rows(side)) for side in SHARES]
        assert counts == [12, 6, 12]
    assert not pool.dropped


def test_too_few_groups_and_two_places() -> None:
    with pytest.raises(DataError) as error:
        shared_out(["a", "a"], SHARES, "rows.jsonl")
    assert str(error.value) == (
        "rows.jsonl: 1 group for 3 sides; give at least 3 different prompts"
    )
    both = Local(path="rows.jsonl", role="harmful", side="attacker", shares={"evaluator": 1.0})
    with pytest.raises(DataError) as error:
        both.examples()
    assert str(error.value) == "rows.jsonl: `side` and `shares` both place its rows; keep one"


def test_shares_left_out_are_in_no_key() -> None:
    assert "shares" not in Local(path="rows.jsonl", role="harmful").key_fields()
