"""One static page: no script, no outside request, the same bytes for the same inputs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from holdfast.api import PAID
from holdfast.disk import write_bytes
from holdfast.report import (
    answer,
    counted,
    figures,
    inside,
    panels,
    paper,
    shared,
    text,
    tuning,
    words,
)
from holdfast.report import provider as hosts
from holdfast.report.gaps import gaps
from holdfast.report.judges import coefficient, warnings
from holdfast.report.prices import claim, price
from holdfast.report.samples import provenance, samples
from holdfast.stats.findings import find
from holdfast.stats.records import Attack, Findings, Point
from holdfast.stats.rows import Outcomes, told
from holdfast.stats.trajectories import EVALUATOR

if TYPE_CHECKING:
    import pyarrow as pa


HERE = Path(__file__).parent
ALWAYS_UNTESTED = (
    "Attacks, budgets and learning rates other than those listed.",
    "Attackers who search for the weakest point of one defence.",
    "Prompts that do not look like these evaluation sets; other languages; jailbreaks by prompt.",
)


class Looks(TypedDict, total=False):
    """What may be shown beside the findings; see `page`."""

    analysis: Iterable[Mapping[str, Any]] | pa.Table
    scatter: Iterable[Mapping[str, Any]] | pa.Table
    show_text: bool


def write_report(
    outcomes: Iterable[Mapping[str, Any]] | pa.Table,
    lineups: Iterable[Mapping[str, Any]] | pa.Table,
    meta: Mapping[str, Any],
    out: Path,
    **looks: Unpack[Looks],
) -> Path:
    """Write the page alone to `out` (one HTML file) and give its path; see `render`."""
    page = render(outcomes, lineups, meta, **looks)
    write_bytes(Path(out), page.encode("utf-8", "backslashreplace"))
    return Path(out)


def render(
    outcomes: Iterable[Mapping[str, Any]] | pa.Table,
    lineups: Iterable[Mapping[str, Any]] | pa.Table,
    meta: Mapping[str, Any],
    **looks: Unpack[Looks],
) -> str:
    """Give the report as a string.

    `outcomes` has a row per cell, prompt and judge, `lineups` one per line-up and seed, `meta`
    what the study says of itself (`Meta`); `looks` are those of `page`.
    """
    table = outcomes if isinstance(outcomes, Outcomes) else Outcomes(outcomes)
    return page(find(table, lineups, meta), table, **looks)


def page(
    found: Findings,
    table: Outcomes,
    *,
    analysis: Iterable[Mapping[str, Any]] | pa.Table = (),
    scatter: Iterable[Mapping[str, Any]] | pa.Table = (),
    show_text: bool = False,
) -> str:
    """Give the page of what was found as a string.

    `analysis` and `scatter` are what a study with an analysis has besides (`inside`). Restricted
    text is masked unless `show_text`.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=False, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters.update(
        percent=text.percent, interval=text.interval, broke=text.broke, bounds=text.bounds,
        number=text.number, plural=text.plural, safe_text=text.harmless,
        begun=text.begun,
    )  # fmt: skip
    style = (HERE / "page.css").read_text(encoding="utf-8")
    told = _page(found, table, show_text)
    told["inside"] = inside.gather(analysis, scatter, list(found.lineups))
    if told["inside"]:
        place = [name for name, _ in told["contents"]].index("samples")
        told["contents"].insert(place, ("inside", "Inside the models"))
    told.update(
        style=Markup(style),
        style_hash="sha256-"
        + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii"),
    )
    return environment.get_template("page.html.j2").render(**told)


def _page(found: Findings, table: Outcomes, show_text: bool) -> dict[str, Any]:
    """Gather what the template shows."""
    order = list(found.lineups)
    threshold = found.meta.thresholds[0]
    headline = found.headline
    sets = {kind for line in found.lineups.values() for kind in line.release}
    return {
        **WORDS,
        **_points(found),
        **_drawn(found, order, threshold),
        "found": found,
        "answer": answer.sentences(found),
        "judge_warnings": warnings(found),
        "first": len(gaps(found)) + 1,
        "claim": claim(found, headline) if headline else "No attack with a price was run.",
        "threshold": threshold,
        "other_thresholds": found.meta.thresholds[1:],
        "headline": headline,
        "costs": headline.costs[threshold] if headline else {},
        "tried_free": [threat for threat in found.threats if threat.free_attacks],
        "over": "over prompts and seeds" if found.over_seeds else "over prompts, given these seeds",
        "contents": _contents(found),
        "models_differ": len({line.model for line in found.lineups.values()}) > 1,
        "published": list(paper.Layout(table, found.meta, order, EVALUATOR).tables())
        if found.meta.published
        else [],
        "published_notes": paper.notes(found.meta.published),
        "signs": [line for line in found.lineups.values() if line.sign is not None],
        "release_sets": [k for k in found.meta.sets if k in sets]
        + sorted(sets - set(found.meta.sets)),
        "set_name": lambda kind: words.label(found, kind),
        "measures": "".join(f"{said} " for said in words.measures(found, sets)),
        "utility_words": words.utility_words(found),
        "outcome_names": [one for one in told(found.meta.counts) if one != "benign_ok"],
        "counted": counted.told(found),
        "show_text": show_text,
        "samples": list(samples(found, table, show_text)),
        "not_tested": [*found.meta.not_tested, *ALWAYS_UNTESTED],
        "shared": list(shared.cells(found.meta.leakage)),
        "tuning": list(tuning.cells(found)),
        "provenance": list(provenance(found.meta.provenance)),
        "provider": hosts.gather(found.hosted, found) if found.hosted else None,
    }


def _budget_name(budget: float, unit: str) -> str:
    said = text.budget(budget, unit)
    return said if unit == PAID else f"{unit}{text.NO_BREAK}={text.NO_BREAK}{said}"


WORDS: dict[str, Any] = {
    "budgets": lambda attack: sorted({p.budget for own in attack.points.values() for p in own}),
    "budget_name": _budget_name,
    "released_broken": lambda costs: all(c.at_release for c in costs.values()),
    "free_words": words.free_words,
    "opened_words": words.opened_words,
    "kept_words": words.kept_words,
    "span": words.span,
    "spread": words.spread,
    "by_seed": words.by_seed,
    "chosen_differs": lambda attack: any(any(v.values()) for v in attack.chosen.values()),
    "chosen": words.chosen,
    "swatch": panels.swatch,
    "coefficient": coefficient,
    "price": price,
}
"""What the template calls: each gives words for a cell."""


def _points(found: Findings) -> dict[str, Any]:
    """Give the template a line-up's point at one budget of an attack, and as released."""
    attacks = _attacks(found)
    points = {
        (attack.name, name, point.budget): point
        for attack in attacks
        for name, own in attack.points.items()
        for point in own
    }

    def release_point(name: str) -> Point | None:
        return next(
            (points[(a.name, name, 0.0)] for a in attacks if (a.name, name, 0.0) in points), None
        )

    return {
        "attack_count": len(attacks),
        "at": lambda attack, name, budget: points.get((attack.name, name, budget)),
        "release_point": release_point,
    }


def _drawn(found: Findings, order: list[str], threshold: float) -> dict[str, Any]:
    """Draw every figure."""
    from markupsafe import Markup

    keys = {name: Markup(figures.key(i)) for i, name in enumerate(order)}
    return {
        "key": lambda name: keys.get(name, ""),
        "figures": {a.name: panels.panels(a, order, threshold, found) for a in _attacks(found)},
        "parted": len(figures.panels(order)) > 1,
        "cost_figures": {
            t.access: panels.costs(t, order, threshold, found) for t in found.threats if t.costs
        },
        "stacks": [
            (a.name, panels.stacks(a, order, found)) for t in found.threats for a in t.attacks
        ],
    }


def _attacks(found: Findings) -> list[Attack]:
    return [a for threat in found.threats for a in (*threat.attacks, *threat.free_attacks)]


def _contents(found: Findings) -> list[tuple[str, str]]:
    threats = [
        (f"threat-{t.access}", "Attacks on weights" if t.access == "weights" else "Attacks by data")
        for t in found.threats
    ]
    judges = [("judges", "Judges")] if found.panel else []
    hosted = [("provider", "For hosts of fine-tuning")] if found.hosted else []
    answers = [("outcomes", "Outcomes")] if found.threats else []
    told = [("shared", "Shared prompts")] if found.meta.leakage else []
    published = [("published", "Published figures")] if found.meta.published else []
    taught = [("tuning", "Honest fine-tuning")] if found.meta.tuning else []
    signs = [("signs", "Did it act?")] if any(one.sign for one in found.lineups.values()) else []
    return [
        ("summary", "At a glance"), *threats, *hosted, *answers, ("release", "As released"),
        *taught, *signs, *judges, *published, ("samples", "Answers"), ("untested", "Not tested"),
        ("reading", "How to read"), *told, ("provenance", "Provenance"),
    ]  # fmt: skip
