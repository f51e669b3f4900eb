"""The page's figures of attacks: curves, costs, outcome shares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.report import figures, text
from holdfast.report.counted import told
from holdfast.stats import rows
from holdfast.stats.estimates import Rate
from holdfast.stats.records import Attack, Findings, Threat

if TYPE_CHECKING:
    from markupsafe import Markup


def panels(
    attack: Attack, order: Sequence[str], threshold: float, found: Findings
) -> list[dict[str, Any]]:
    """Draw an attack's panels, harm and utility side by side, for as many as tell apart."""
    groups = figures.panels(order)
    drawn = [
        _panel(attack, order, group, kind, threshold, found) | {"names": group}
        for group in groups
        for kind in ("harm", "utility")
    ]
    shown = [panel for panel in drawn if panel["svg"]]
    return shown if len(groups) > 1 else [panel | {"names": []} for panel in shown]


def _panel(
    attack: Attack, order: Sequence[str], group: Sequence[str], kind: str,
    threshold: float, found: Findings,
) -> dict[str, Any]:  # fmt: skip
    """Draw one panel: a curve of one kind for each line-up of a group that has it."""
    from markupsafe import Markup

    title = text.begun(told(found).rate) if kind == "harm" else "Benign utility"
    lines = []
    for name in group:
        own = [p for p in attack.points.get(name, ()) if getattr(p, kind).value is not None]
        rates: list[Rate] = [getattr(p, kind) for p in own]
        seeds = [
            (p.budget, value)
            for p in own
            for value in getattr(p, f"{kind}_seeds").values()
            if value is not None
        ]
        if own:
            lines.append(
                figures.Line(
                    name, [p.budget for p in own], [r.value or 0.0 for r in rates],
                    [r.low for r in rates], [r.high for r in rates], seeds,
                )
            )  # fmt: skip
    if not lines:
        return {"svg": "", "caption": ""}
    first = order.index(group[0])
    svg = figures.curves(
        lines, order, threshold=threshold if kind == "harm" else None, unit=attack.unit,
        ylabel=f"{title}, %", label=f"{title} under {text.harmless(attack.name, 60)} by budget",
        prefix=f"{kind}-{_slug(attack.name)}" + (f"-{first}" if first else ""),
    )  # fmt: skip
    over = "prompts and seeds" if found.over_seeds else "prompts, given these seeds"
    said = f"{title}: mean over seeds with its 95 % interval over {over}; small rings are seeds."
    return {"svg": Markup(svg), "caption": said}


def _slug(name: str) -> str:
    """Give an id that any attack's name leads to and that cannot break out of an attribute."""
    return hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]


def costs(threat: Threat, order: Sequence[str], threshold: float, found: Findings) -> Markup:
    """Draw the cost of each line-up, by seed."""
    from markupsafe import Markup

    bars = [
        figures.Bar(name, c.low, c.high, c.ci_low, c.ci_high)
        for name, by_seed in threat.costs[threshold].items()
        for c in by_seed.values()
    ]
    budgets = sorted({p.budget for a in threat.attacks for own in a.points.values() for p in own})
    label = f"Cost-to-break of each line-up at {100 * threshold:g} % {told(found).answers}, by seed"
    return Markup(figures.costs(bars, order, budgets, label=label, prefix=f"cost-{threat.access}"))


def stacks(attack: Attack, order: Sequence[str], found: Findings) -> list[tuple[str, Markup]]:
    """Draw each line-up's shares of outcomes over an attack's budgets."""
    from markupsafe import Markup

    drawn = []
    for i, name in enumerate(order):
        own = attack.points.get(name, ())
        if not own:
            continue
        shares = {
            outcome: [p.shares[k] for p in own]
            for k, outcome in enumerate(rows.told(found.meta.counts))
            if outcome != "benign_ok" or any(p.shares[k] for p in own)
        }
        label = (
            f"Outcome shares of {text.harmless(name, 60)} under {text.harmless(attack.name, 60)}"
        )
        svg = figures.stacks(
            shares, [p.budget for p in own], unit=attack.unit, label=label,
            prefix=f"stack{i}-{_slug(attack.name)}",
        )  # fmt: skip
        drawn.append((name, Markup(svg)))
    return drawn


def swatch(outcome: str) -> Markup:
    """Draw the key of an outcome's fill."""
    from markupsafe import Markup

    return Markup(
        '<svg viewBox="0 0 14 14" width="14" height="14" aria-hidden="true"><rect width="14" '
        f'height="14" rx="2" fill="{figures.OUTCOME_FILLS[outcome]}"/></svg>'
    )
