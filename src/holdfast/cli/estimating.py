"""`holdfast plan --estimate`: what a study will cost, in plain lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.saying import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdfast.engine.cards import Card
    from holdfast.engine.estimate import Estimate
    from holdfast.engine.judgecost import JudgeCost
    from holdfast.study.file import Study

SMALL = 1e9
"""Weights below which a model is expected to run on a processor; ours."""


def show(study: Study, store: Path, card: str | None, efficiency: float | None) -> None:
    """Estimate a study and say what it comes to.

    Raises:
        ConfigError, DataError, ModelError: it is impossible, or too little is known of it.
    """
    from holdfast.engine.cards import card as card_of
    from holdfast.engine.estimate import estimate
    from holdfast.engine.store import Store
    from holdfast.nn.files import local_only
    from holdfast.nn.memory import shape
    from holdfast.study.plan import Plan
    from holdfast.study.standins import StandIns

    stand_ins = StandIns()
    card_of(card or "cpu", efficiency)  # a wrong option is told before any planning
    with local_only():
        plan = Plan(study, stand_ins=stand_ins)
        largest = max(shape(start.files).weights for start in plan.starts.values())
        default = "cpu" if largest < SMALL else "141gb"
        on = card_of(card or default, efficiency)
        found = estimate(plan, Store(store), on, stand_ins)
    cells = sum(len(track.points) for track in plan.tracks)
    say(
        f"estimate of {plan.study.name}: {len(plan.study.lineups)} line-ups x "
        f"{len(plan.study.seeds)} seeds, {cells} cells, on {on.told}"
    )
    for line in told(found):
        say(line)


def told(found: Estimate) -> list[str]:
    """Give an estimate's lines: steps, memory, judges, disk, and what was not checked."""
    on, lines = found.card, [f"{'step':<10}{'number':>8}{'FLOPs':>11}{'hours':>9}{'GiB':>8}"]
    for kind, line in found.lines.items():
        lines.append(
            f"{kind:<10}{line.number:>8}{line.flops:>11.2e}{line.seconds / 3600:>9.3g}"
            f"{line.memory / 2**30:>8.3g}"
        )
    kind = "GPU" if on.gpu else "processor"
    total = found.seconds / 3600
    lines.append(f"in all: about {total:.3g} {kind} hours, {found.flops:.2e} FLOPs")
    for label, (size, cards) in found.fits.items():
        lines.append(f"memory of {label}: {size / 2**30:.3g} GiB as written; {_cards(cards)}")
    lines += [_judge(cost) for cost in found.judges]
    disk = ", ".join(f"{what} {size / 1e9:.3g} GB" for what, size in found.disk.items() if size)
    lines.append(f"disk: {disk or 'nothing'}")
    lines.append(_assumed(on))
    lines += [f"not checked: {what}" for what in found.unchecked]
    return lines


def _cards(found: Mapping[str, str]) -> str:
    return "; ".join(f"{name.removesuffix('gb')} GB: {how}" for name, how in found.items())


def _judge(cost: JudgeCost) -> str:
    money = "" if cost.money is None else f", {cost.money:.2f} of its prices' currency"
    return (
        f"judge {cost.name}: at most {cost.calls:,} calls, {cost.read / 1e6:.3g} million tokens "
        f"read, {cost.written / 1e6:.3g} written{money}"
    )


def _assumed(on: Card) -> str:
    peak = f"{on.half / 1e12:.3g} TFLOP/s in bf16, {on.single / 1e12:.3g} in fp32"
    return (
        f"assumed: {on.efficiency:.0%} of a peak of {peak}; every answer as long as it may be; "
        "attention's products, starts and diagnostics left out"
    )
