"""Groups shared out among sides in exact shares, so that a small file has rows on every one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from holdfast.data.example import Side
from holdfast.errors import DataError


def shared_out(groups: Iterable[str], shares: Mapping[Side, float], where: str) -> dict[str, Side]:
    """Give each group its side: a function of the groups' names and the shares alone.

    Groups stand in the order of their hash; the sides, in the order of `Side`, take so many of them
    in turn as their share of all comes to. What rounding leaves goes to the largest remainders, and
    every side has one at least.

    Args:
        groups: their names; one that comes again counts once.
        shares: of each side, above 0; what they add up to is the whole.
        where: what an error begins with.

    Raises:
        DataError: there are fewer groups than sides.
    """
    names = sorted(set(groups), key=lambda name: hashlib.sha256(f"share/{name}".encode()).digest())
    sides = [side for side in Side if side in shares]
    if len(names) < len(sides):
        what = f"{len(names)} {'group' if len(names) == 1 else 'groups'} for {len(sides)} sides"
        raise DataError(where, what, f"give at least {len(sides)} different prompts")
    total = sum(shares.values())
    exact = {side: len(names) * shares[side] / total for side in sides}
    counts = {side: max(1, int(exact[side])) for side in sides}
    while (left := len(names) - sum(counts.values())) != 0:
        step = 1 if left > 0 else -1
        able = [side for side in sides if step > 0 or counts[side] > 1]
        counts[max(able, key=lambda side: step * (exact[side] - counts[side]))] += step
    order = iter(names)
    return {next(order): side for side in sides for _ in range(counts[side])}
