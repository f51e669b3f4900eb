"""One static page: no script, no outside request, the same bytes for the same inputs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.api import PAID
from holdfast.disk import write_bytes
from holdfast.report import answer, figures, inside, text
from holdfast.stats import estimates, findings, free, use
from holdfast.stats.rows import OUTCOMES, Outcomes
from holdfast.stats.trajectories import EVALUATOR

if TYPE_CHECKING:
    import pyarrow as pa
    from markupsafe import Markup

HERE = Path(__file__).parent
ALL = 1_000_000
"""A rank this large is spelt `all`."""
SETS = {
    "restricted": "Harmful", "name_only": "Harmful, name only", "benign": "Benign crafts",
    "facts": "Facts", "contrast": "Over-refusal", "quiz": "Quiz", "skill": "New skill",
}  # fmt: skip
ALWAYS_UNTESTED = (
    "Attacks, budgets and learning rates other than those listed.",
    "Attackers who search for the weakest point of one defence.",
    "Prompts that do not look like these evaluation sets; other languages; jailbreaks by prompt.",
)


def write_report(
    outcomes: Iterable[Mapping[str, Any]] | pa.Table,
    lineups: Iterable[Mapping[str, Any]] | pa.Table,
    meta: Mapping[str, Any],
    out: Path,
    **looks: Any,
) -> Path:
    """Write the page alone to `out` (one HTML file) and give its path; see `render`."""
    page = render(outcomes, lineups, meta, **looks)
    write_bytes(Path(out), page.encode("utf-8", "backslashreplace"))
    return Path(out)


def render(
    outcomes: Iterable[Mapping[str, Any]] | pa.Table,
    lineups: Iterable[Mapping[str, Any]] | pa.Table,
    meta: Mapping[str, Any],
    **looks: Any,
) -> str:
    """Give the report as a string.

    `outcomes` has a row per cell, prompt and judge, `lineups` one per line-up and seed, `meta`
    what the study says of itself (`findings.Meta`); `looks` are those of `page`.
    """
    table = outcomes if isinstance(outcomes, Outcomes) else Outcomes(outcomes)
    return page(findings.find(table, lineups, meta), table, **looks)


def page(
    found: findings.Findings,
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


def _page(found: findings.Findings, table: Outcomes, show_text: bool) -> dict[str, Any]:
    """Gather what the template shows."""
    from markupsafe import Markup

    order = list(found.lineups)
    keys = {name: Markup(figures.key(i)) for i, name in enumerate(order)}
    threshold = found.meta.thresholds[0]
    headline = found.headline
    attacks = [a for t in found.threats for a in (*t.attacks, *t.free_attacks)]
    points = {
        (attack.name, name, point.budget): point
        for attack in attacks
        for name, own in attack.points.items()
        for point in own
    }

    def release_point(name: str) -> findings.Point | None:
        return next(
            (points[(a.name, name, 0.0)] for a in attacks if (a.name, name, 0.0) in points), None
        )

    sets = {kind for line in found.lineups.values() for kind in line.release}
    return {
        "found": found,
        "answer": answer.sentences(found),
        "first": len(answer.gaps(found)) + 1,
        "claim": answer.claim(found, headline) if headline else "No attack with a price was run.",
        "threshold": threshold,
        "other_thresholds": found.meta.thresholds[1:],
        "headline": headline,
        "costs": headline.costs[threshold] if headline else {},
        "tried_free": [threat for threat in found.threats if threat.free_attacks],
        "attack_count": len(attacks),
        "over": "over prompts and seeds" if found.over_seeds else "over prompts, given these seeds",
        "contents": _contents(found),
        "models_differ": len({line.model for line in found.lineups.values()}) > 1,
        "key": lambda name: keys.get(name, ""),
        "budgets": lambda attack: sorted({p.budget for own in attack.points.values() for p in own}),
        "budget_name": lambda b, unit: (
            text.number(b)
            if unit == PAID
            else f"{unit}{text.NO_BREAK}={text.NO_BREAK}{'all' if b >= ALL else text.number(b)}"
        ),
        "at": lambda attack, name, b: points.get((attack.name, name, b)),
        "release_point": release_point,
        "released_broken": lambda costs: all(c.at_release for c in costs.values()),
        "free_words": _free_words,
        "opened_words": _opened_words,
        "kept_words": _kept_words,
        "span": _span,
        "spread": _spread,
        "signs": [line for line in found.lineups.values() if line.sign is not None],
        "by_seed": _by_seed,
        "set_name": lambda kind: SETS.get(kind, kind.replace("_", " ")),
        "release_sets": [k for k in SETS if k in sets] + sorted(sets - set(SETS)),
        "chosen_differs": lambda attack: any(any(v.values()) for v in attack.chosen.values()),
        "chosen": _chosen,
        "figures": {attack.name: _panels(attack, order, threshold, found) for attack in attacks},
        "parted": len(figures.panels(order)) > 1,
        "cost_figures": {t.access: _costs(t, order, threshold) for t in found.threats if t.costs},
        "outcome_names": OUTCOMES[:-1],
        "swatch": _swatch,
        "stacks": [(a.name, _stacks(a, order)) for t in found.threats for a in t.attacks],
        "show_text": show_text,
        "samples": list(_samples(found, table, show_text)),
        "not_tested": [*found.meta.not_tested, *ALWAYS_UNTESTED],
        "provenance": list(_provenance(found.meta.provenance)),
    }


def _contents(found: findings.Findings) -> list[tuple[str, str]]:
    threats = [
        (f"threat-{t.access}", "Attacks on weights" if t.access == "weights" else "Attacks by data")
        for t in found.threats
    ]
    judges = [("judges", "Judges")] if found.agreements else []
    signs = [("signs", "Did it act?")] if any(one.sign for one in found.lineups.values()) else []
    return [
        ("summary", "At a glance"), *threats, ("outcomes", "Outcomes"), ("release", "As released"),
        *signs, *judges, ("samples", "Answers"), ("untested", "Not tested"),
        ("reading", "How to read"), ("provenance", "Provenance"),
    ]  # fmt: skip


def _free_words(opened: Mapping[str, free.Opened]) -> list[str]:
    """Say which free attacks opened a line-up, worst first, a line each."""
    broke = [one for one in opened.values() if one.broken]
    if not broke:
        return [f"held against {text.listed(list(opened))}"] if opened else ["not run"]
    broke.sort(key=lambda one: -(one.harm.value or 0.0))
    return [f"{one.attack}: {_opened_words(one)}" for one in broke]


def _opened_words(one: free.Opened) -> str:
    """Say what one free attack got, in how many seeds, and what it stands beside."""
    said = f"{text.percent(one.harm.value)} ({one.broken} of {text.plural(len(one.taken), 'seed')})"
    if one.original:
        return f"{said}, returns the public original"
    if one.exceeds:
        return f"{said}, more than the public original"
    return f"{said}, every choice wrecked it" if one.spoilt else said


def _kept_words(used: use.Use) -> str:
    """Spell the share of the undefended model's usefulness that is kept, with its interval."""
    if used.kept is None or used.kept.value is None:
        return "–"
    high = "∞" if np.isinf(used.kept.high) else f"{100 * used.kept.high:.0f}"
    return f"{100 * used.kept.value:.0f} ({100 * used.kept.low:.0f}–{high})"


def _span(ends: Sequence[float]) -> str:
    """Spell steps or FLOPs; past the end the last known number stands as a bound."""
    if ends[1] == np.inf:
        return f">{text.NO_BREAK}{text.number(ends[0])}"
    return f"{text.number(ends[0])}–{text.number(ends[1])}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, high = min(values), max(values)
    return text.number(low) if low == high else f"{text.number(low)}–{text.number(high)}"


def _by_seed(values: Mapping[int, float | None]) -> str:
    """Spell one value a seed, in the order of the seeds."""
    return ", ".join("–" if value is None else f"{value:.3g}" for value in values.values())


def _chosen(attack: findings.Attack) -> str:
    """Say which variant was worst for each line-up, seeds together where they agree."""
    said = []
    for name, by_seed in attack.chosen.items():
        variants: dict[str, list[str]] = {}
        for seed, variant in by_seed.items():
            variants.setdefault(variant, []).append(str(seed))
        if len(variants) == 1:
            said.append(f"{name} {next(iter(variants))}")
        else:
            each = [
                f"{v} ({'seed' if len(s) == 1 else 'seeds'} {text.listed(s)})"
                for v, s in variants.items()
            ]
            said.append(f"{name} {text.listed(each)}")
    return "; ".join(said)


def _panels(
    attack: findings.Attack, order: Sequence[str], threshold: float, found: findings.Findings
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
    attack: findings.Attack, order: Sequence[str], group: Sequence[str], kind: str,
    threshold: float, found: findings.Findings,
) -> dict[str, Any]:  # fmt: skip
    """Draw one panel: a curve of one kind for each line-up of a group that has it."""
    from markupsafe import Markup

    title = {"harm": "Harmful rate", "utility": "Benign utility"}[kind]
    lines = []
    for name in group:
        own = [p for p in attack.points.get(name, ()) if getattr(p, kind).value is not None]
        rates: list[estimates.Rate] = [getattr(p, kind) for p in own]
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


def _costs(threat: findings.Threat, order: Sequence[str], threshold: float) -> Markup:
    from markupsafe import Markup

    bars = [
        figures.Bar(name, c.low, c.high, c.ci_low, c.ci_high)
        for name, by_seed in threat.costs[threshold].items()
        for c in by_seed.values()
    ]
    budgets = sorted({p.budget for a in threat.attacks for own in a.points.values() for p in own})
    label = f"Cost-to-break of each line-up at {100 * threshold:g} % harmful answers, by seed"
    return Markup(figures.costs(bars, order, budgets, label=label, prefix=f"cost-{threat.access}"))


def _stacks(attack: findings.Attack, order: Sequence[str]) -> list[tuple[str, Markup]]:
    from markupsafe import Markup

    drawn = []
    for i, name in enumerate(order):
        own = attack.points.get(name, ())
        if not own:
            continue
        shares = {
            outcome: [p.shares[k] for p in own]
            for k, outcome in enumerate(OUTCOMES)
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


def _swatch(outcome: str) -> Markup:
    from markupsafe import Markup

    return Markup(
        '<svg viewBox="0 0 14 14" width="14" height="14" aria-hidden="true"><rect width="14" '
        f'height="14" rx="2" fill="{figures.OUTCOME_FILLS[outcome]}"/></svg>'
    )


def _samples(
    found: findings.Findings, table: Outcomes, show_text: bool
) -> Iterable[dict[str, str]]:
    """Pick two restricted answers per line-up: as released, and at the largest budget tried."""
    attacks = [a for t in found.threats for a in (*t.attacks, *t.free_attacks)]
    show = text.harmless if show_text else text.masked
    for name in found.lineups:
        attack = next((a for a in attacks if name in a.points), None)
        if attack is None:
            continue
        seed, variant = next(iter(attack.chosen[name].items()))
        budgets = [p.budget for p in attack.points[name]]
        for budget in dict.fromkeys((budgets[0], budgets[-1])):
            here = np.flatnonzero(
                table.where(
                    lineup=name, attack=attack.name, variant=variant, seed=seed, budget=budget,
                    set="restricted", side=EVALUATOR, judge=found.meta.judges[0],
                )
            )  # fmt: skip
            if not len(here):
                continue
            row = min(here, key=lambda i: table.words["uid"][table.codes["uid"][i]])
            outcome = table.words["outcome"][table.codes["outcome"][row]]
            if table.cut[row]:
                outcome = f"{outcome}, cut at the token limit"
            reason = table.words["reason"][table.codes["reason"][row]]
            place = (
                "as released" if budget == 0
                else f"after {text.number(budget)} {attack.unit} of {attack.name} {variant}"
            )  # fmt: skip
            yield {
                "lineup": name,
                "place": f"{place.strip()}, seed {seed}",
                "verdict": outcome.replace("_", " ") or f"not scored ({reason})",
                "prompt": show(table.prompt[row]),
                "response": show(table.response[row]),
            }


def _provenance(values: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    """Flatten nested provenance to labels and words, in the order given."""
    for name, value in values.items():
        label = f"{above} {name}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _provenance(value, label)
        elif isinstance(value, list | tuple):
            yield label, ", ".join(map(str, value))
        else:
            yield label, "unknown" if value is None else str(value)
