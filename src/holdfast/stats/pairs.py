"""Line-ups compared two by two: which of them costs more, beyond what chance allows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast.stats import estimates, exact
from holdfast.stats.cost import Cost


@dataclass(frozen=True, slots=True)
class Pair:
    """Two line-ups compared over the seeds both have.

    `larger`, `smaller`, `tied` count seeds by the left line-up's cost. `p` is the exact sign-flip
    test's; `lead` the mean log2 of left over right cost it tested. `ratio` is 2^lead, and
    `ratio_low`, `ratio_high` the 95 % interval of the same test turned round
    (`exact.sign_flip_interval`): it holds 1 exactly where p > 0.05, before any adjustment for
    the number of pairs. All five are None where no test may be made. They speak of the budgets at
    which the two were found broken, the upper ends of budget steps; a difference within a step is
    not seen, so an interval narrower than a step is only that of the steps. `why_not` says why no
    ranking is claimed (empty when `adjusted` < 0.05).
    """

    left: str
    right: str
    seeds: int
    larger: int
    smaller: int
    tied: int
    why_not: str
    p: float | None = None
    lead: float | None = None
    adjusted: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None

    @property
    def costlier(self) -> str | None:
        """The line-up that the test found to cost more; None where no claim is made."""
        if self.why_not or self.lead is None:
            return None
        return self.left if self.lead > 0 else self.right

    @property
    def cheaper(self) -> str | None:
        """The other one of a claimed pair."""
        if self.costlier is None:
            return None
        return self.right if self.costlier == self.left else self.left


def log_difference(left: Cost, right: Cost) -> float:
    """Give log2 left cost - log2 right cost, both cut at the last budget a survivor was tried at.

    What happened past that budget is unknown for the survivor, so it counts for neither: cutting
    can only weaken a claim, also where the two were tried up to different budgets. 0 where neither
    is known to be larger.
    """
    if not (_larger(left, right) or _larger(right, left)):
        return 0.0
    cap = min((cost.b_max for cost in (left, right) if cost.survived), default=math.inf)
    ends = [min(cost.b_max if cost.survived else cost.high, cap) for cost in (left, right)]
    return math.log2(ends[0]) - math.log2(ends[1])


def _larger(one: Cost, other: Cost) -> bool:
    """Say whether one cost is known to be larger: a survivor's is past its own last budget.

    Intervals that overlap (budgets differ, or a model was not coherent at some) decide nothing.
    """
    if one.survived:
        return not other.survived and other.high <= one.b_max
    return not other.survived and one.low >= other.high and one.high > other.high


def compare(
    costs: Mapping[str, Mapping[int, Cost]],
    barred: Mapping[str, str] | None = None,
    single: Collection[str] = (),
) -> list[Pair]:
    """Compare every two line-ups seed by seed; `costs[line-up][seed]`, in the order given.

    `barred` maps a line-up to why it may not rank (invalid, inert). `single` names line-ups that
    are one checkpoint attacked with several seeds: their seeds repeat the attack and not the
    training, so that no test over seeds speaks of the method. Holm's adjustment runs over the pairs
    that are tested.
    """
    barred = barred or {}
    names, pairs = list(costs), []
    for first, left in enumerate(names):
        for right in names[first + 1 :]:
            pairs.append(_pair(left, right, costs, barred, single))
    tested = [i for i, pair in enumerate(pairs) if pair.p is not None]
    adjusted = exact.holm([pairs[i].p or 0.0 for i in tested])
    for i, value in zip(tested, adjusted, strict=True):
        reason = "" if value < 1 - estimates.LEVEL else "the difference may be chance"
        pairs[i] = replace(pairs[i], adjusted=value, why_not=reason)
    return pairs


def _pair(
    left: str,
    right: str,
    costs: Mapping[str, Mapping[int, Cost]],
    barred: Mapping[str, str],
    single: Collection[str],
) -> Pair:
    seeds = sorted(set(costs[left]) & set(costs[right]))
    both = [(costs[left][s], costs[right][s]) for s in seeds]
    larger = sum(_larger(a, b) for a, b in both)
    smaller = sum(_larger(b, a) for a, b in both)
    pair = Pair(left, right, len(seeds), larger, smaller, len(both) - larger - smaller, "")
    reasons = [
        f"{name} is {why}"
        for name in (left, right)
        for why in _reasons(costs[name], seeds, barred.get(name, ""), name in single)
    ]
    if reasons:
        return replace(pair, why_not="; ".join(reasons))
    count = f"{len(seeds)} paired seed{'' if len(seeds) == 1 else 's'}"
    if len(seeds) < estimates.SEEDS_FOR_RANKING:
        return replace(pair, why_not=f"{count}; a ranking needs {estimates.SEEDS_FOR_RANKING}")
    if len(seeds) > exact.MOST_PAIRS:
        return replace(pair, why_not=f"{count}; the exact test takes {exact.MOST_PAIRS}")
    differences = [log_difference(a, b) for a, b in both]
    lead = math.fsum(differences) / len(differences)
    low, high = exact.sign_flip_interval(differences)
    return replace(
        pair, p=exact.sign_flip(differences), lead=lead,
        ratio=2**lead, ratio_low=2**low, ratio_high=2**high,
    )  # fmt: skip


def _reasons(
    costs: Mapping[int, Cost], seeds: Sequence[int], barred: str, single: bool
) -> list[str]:
    """Say why a line-up's costs at some seeds may not be tested against another's."""
    found = [barred] if barred else []
    if any(costs[seed].at_release for seed in seeds):
        found.append("broken at release")
    found += dict.fromkeys(costs[seed].doubt for seed in seeds if costs[seed].doubt)
    if single and len(seeds) > 1:
        count = len(seeds)
        found.append(f"one checkpoint attacked with {count} seeds, not {count} trainings")
    return found
