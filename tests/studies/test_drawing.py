"""Rows are drawn once for a pool, a method's fields and a seed, however often planning asks."""

from __future__ import annotations

import pytest

from holdfast.data.example import Example, Role
from holdfast.data.pool import Pool
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.errors import DataError
from holdfast.study.drawing import drawn
from holdfast.testing import tiny


class Counted(RefusalSFT):
    """A defence that counts how often it draws."""

    @classmethod
    def name(cls) -> str:
        return "counted"

    def rows(self, pool: Pool, seed: int) -> dict[Role, list[Example]]:
        calls.append((self.n_refusal, seed))
        return super().rows(pool, seed)


calls: list[tuple[int | None, int]] = []


@pytest.fixture(autouse=True)
def none_yet() -> None:
    calls.clear()


def test_it_gives_what_the_method_draws() -> None:
    pool, method = tiny.pool(), RefusalSFT(n_refusal=2, n_benign=2)
    assert drawn(method, pool, 0) == method.rows(method.sees(pool), 0)


def test_alike_are_drawn_once_and_all_else_again() -> None:
    pool = tiny.pool()
    two, three = Counted(n_refusal=2, n_benign=2), Counted(n_refusal=3, n_benign=2)
    for method, seed in [(two, 0), (two.model_copy(), 0), (two, 1), (three, 0), (two, 0)]:
        assert len(drawn(method, pool, seed)[Role.REFUSAL]) == method.n_refusal
    assert calls == [(2, 0), (2, 1), (3, 0)]
    drawn(two, tiny.pool(), 0)
    assert calls[3:] == [(2, 0)], "another pool may hold other rows"


def test_its_lists_are_the_callers_own() -> None:
    pool, method = tiny.pool(), RefusalSFT(n_refusal=2, n_benign=2)
    drawn(method, pool, 0)[Role.REFUSAL].clear()
    assert len(drawn(method, pool, 0)[Role.REFUSAL]) == 2


def test_what_cannot_be_drawn_is_refused_each_time() -> None:
    pool, method = tiny.pool(), Counted(n_refusal=10_000)
    for _ in range(2):
        with pytest.raises(DataError, match="10000 distinct rows asked for"):
            drawn(method, pool, 0)
    assert len(calls) == 2
