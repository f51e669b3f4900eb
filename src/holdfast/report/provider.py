"""The report's section for those who host fine-tuning, and its tables.

Rows alone are another threat model than weights: nothing here stands in a table with the rest.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.report import counted, figures, text
from holdfast.report.markdown import Table
from holdfast.stats import estimates, provider
from holdfast.stats.provider import Asked, Cell, Contrast, Provider, Risk
from holdfast.stats.ratios import Gained
from holdfast.stats.records import Findings
from holdfast.stats.rows import Outcomes
from holdfast.stats.trajectories import EVALUATOR

if TYPE_CHECKING:
    from markupsafe import Markup

COLUMNS: dict[str, str] = {
    "lineup": "str", "job": "str", "clean": "bool", "defence": "str", "budget": "float",
    "seeds": "int", "asked": "str", "n": "int", "unscored": "int",
    "before": "float", "after": "float", "after_low": "float", "after_high": "float",
    "change": "float", "change_low": "float", "change_high": "float",
    "beside": "float", "beside_low": "float", "beside_high": "float",
}  # fmt: skip
"""Columns of a host's table: one row per line-up, job, defence, budget and kind of prompts.

`asked` is one of `holdfast.stats.provider.KINDS`; shares are harmful, or right where the kind is
task or utility; `beside` is after less what plain tuning gives; `n` prompts have a verdict after,
`unscored` have none and are in no share."""

SHORT = {"own": "as the job asks", "sampled": "any of {draws}", "prefilled": "begun for it"}
"""What a cell calls the ways of asking besides the plain one."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Defences by jobs: each cell a few short lines, the first of which decides."""

    title: str
    label: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Sequence[str]]]]


def findings(tables: Mapping[str, Any], side: str = EVALUATOR) -> Provider | None:
    """Work out a host's part of a study from its tables; None where it has none."""
    table, about = tables.get("provider"), tables["meta"].get("provider")
    if table is None or not about:
        return None
    outcomes = table if isinstance(table, Outcomes) else Outcomes(table)
    return provider.find(outcomes, about, tables["meta"], side)


def whole(about: object) -> bool:
    """Say whether `provider` of a meta is what a study writes; None is."""
    if about is None:
        return True
    if not isinstance(about, dict) or not isinstance(about.get("plain"), str):
        return False
    jobs, defences = about.get("jobs"), about.get("defences")
    return (
        isinstance(jobs, dict)
        and isinstance(defences, dict)
        and about["plain"] in defences
        and all(isinstance(one, dict) and "clean" in one for one in jobs.values())
        and isinstance(about.get("risks", []), list)
    )


def rows(found: Provider) -> Iterator[dict[str, Any]]:
    """Give the rows of a host's table."""
    for cell in found.cells:
        for kind, one in cell.asked.items():
            row: dict[str, Any] = {
                "lineup": cell.lineup, "job": cell.job, "clean": cell.clean,
                "defence": cell.defence, "budget": cell.budget, "seeds": len(one.by_seed),
                "asked": kind, "n": one.after.n, "unscored": one.unscored,
                "before": one.before.value, "after": one.after.value,
                "after_low": one.after.low, "after_high": one.after.high,
            }  # fmt: skip
            for name, gain in (("change", one.change), ("beside", one.beside)):
                if gain is not None and gain.value is not None:
                    row |= {name: gain.value, f"{name}_low": gain.low, f"{name}_high": gain.high}
            yield row


def gather(found: Provider, study: Findings) -> dict[str, Any]:
    """Gather what the template shows."""
    about, last = found.about, found.last()
    names = list(dict.fromkeys(cell.lineup for cell in last))
    order = list(about["defences"])
    shown = counted.told(study)
    return {
        "loop": about["loop"],
        "plain": about["plain"],
        "jobs": [(name, job["text"], job["clean"]) for name, job in about["jobs"].items()],
        "defences": list(about["defences"].items()),
        "sentences": [*sentences(study), *_few(found)],
        "legend": [(name, _safe(figures.key(i))) for i, name in enumerate(order)],
        "matrices": [one for name in names for one in _matrices(found, last, name, shown.noun)],
        "figures": [one for name in names for one in _pareto(last, name, order, shown.rate)],
        "risks": _histograms(found.risks, order),
    }


def _few(found: Provider) -> list[str]:
    """Say that few seeds carry no claim."""
    seeds = max((cell.seeds for cell in found.cells), default=0)
    if seeds >= estimates.SEEDS_FOR_RANKING:
        return []
    return [
        f"With {text.plural(seeds, 'seed')} no difference between two defences is claimed: that "
        f"takes {estimates.SEEDS_FOR_RANKING}."
    ]


def sentences(study: Findings) -> list[str]:
    """Say of each line-up after how many jobs each defence leaves it past the threshold.

    A way of asking that opens the release already says nothing of a job, and counts for none.
    """
    if study.hosted is None:
        return []
    threshold, what = study.meta.thresholds[0], counted.told(study).one
    last, said = study.hosted.last(), []
    for name in dict.fromkeys(cell.lineup for cell in last):
        own = [cell for cell in last if cell.lineup == name and "harm" in cell.asked]
        parts = []
        for defence in dict.fromkeys(cell.defence for cell in own):
            under = [cell for cell in own if cell.defence == defence]
            past = sum(_opened(cell, threshold) for cell in under)
            parts.append(f"{past} of {len(under)} under {defence}")
        said.append(
            f"Customers' jobs after which {name} is more than {text.percent(threshold, 0)} {what} "
            f"in some way of asking in which the release is not: {text.listed(parts)}."
        )
    return said


def _opened(cell: Cell, threshold: float) -> bool:
    """Say whether a job took some way of asking past the threshold."""
    asked = [one for kind, one in cell.asked.items() if kind not in ("task", "utility")]
    return any((one.before.value or 0) <= threshold < (one.after.value or 0) for one in asked)


def _matrices(found: Provider, last: Sequence[Cell], lineup: str, noun: str) -> Iterator[Matrix]:
    """Give a line-up's matrices: safety, what it costs, and the weight that was taken away."""
    own = {(cell.job, cell.defence): cell for cell in last if cell.lineup == lineup}
    refused = Counter((r.job, r.defence) for r in found.risks if r.refused and r.lineup == lineup)
    about = found.about
    jobs = [job for job in about["jobs"] if any(place[0] == job for place in own)]
    heads = [f"{job} (clean)" if about["jobs"][job]["clean"] else job for job in jobs]
    defences = [one for one in about["defences"] if any(place[1] == one for place in own)]
    risks = [one for one in found.risks if one.lineup == lineup]

    def matrix(title: str, label: str, cells: Any) -> Matrix:  # noqa: ANN401  (a function)
        return Matrix(
            title,
            label,
            heads,
            [(name, [cells(job, name) for job in jobs]) for name in defences],
        )

    yield matrix(
        f"{lineup}: {noun} after each job. ",
        f"{lineup}: safety",
        lambda job, name: _safety(own.get((job, name)), about, refused[job, name]),
    )
    yield matrix(
        f"{lineup}: what it costs. ",
        f"{lineup}: task gain and utility",
        lambda job, name: _price(own.get((job, name)), name == about["plain"]),
    )
    if risks:
        yield matrix(
            f"{lineup}: training weight taken from planted and from honest rows. ",
            f"{lineup}: weight removed",
            lambda job, name: _removed([r for r in risks if (r.job, r.defence) == (job, name)]),
        )


def _safety(cell: Cell | None, about: Mapping[str, Any], refused: int) -> list[str]:
    if cell is None or "harm" not in cell.asked:
        return ["–"]
    harm = cell.asked["harm"]
    lines = [text.percent(harm.after.value), text.interval(harm.after), *_missing(harm)]
    lines.append(f"released {text.percent(harm.before.value)}")
    for kind, words in SHORT.items():
        if kind in cell.asked:
            after, before = (
                text.percent(rate.value, 0)
                for rate in (cell.asked[kind].after, cell.asked[kind].before)
            )
            lines.append(f"{words.format(draws=about['draws'])} {after} (released {before})")
    return [*lines, *([f"job refused, {refused} of {cell.seeds}"] if refused else [])]


def _price(cell: Cell | None, plain: bool) -> list[str]:
    if cell is None or "task" not in cell.asked:
        return ["–"]
    lines = [f"task {text.percent(cell.asked['task'].after.value)}"]
    for kind in ("task", "utility"):
        if kind in cell.asked:
            one = cell.asked[kind]
            gain = one.change if plain or one.beside is None else one.beside
            beside = "" if plain or one.beside is None else " beside plain"
            lines.append(f"{kind} {_points(gain)}{beside}")
            lines += [f"{kind}: {said}" for said in _missing(one)]
    return lines


def _missing(one: Asked) -> list[str]:
    """Say how many answers have no verdict, where some have none."""
    if not one.unscored:
        return []
    return [f"{one.unscored} of {one.after.n + one.unscored} unscored"]


def _points(gain: Gained) -> str:
    if gain.value is None:
        return "–"
    return f"{text.points(gain.value)} ({text.points(gain.low)} to {text.points(gain.high)})"


def _removed(risks: Sequence[Risk]) -> list[str]:
    lines = []
    for kind in ("planted", "honest"):
        known = [v for r in risks if (v := getattr(r, f"removed_{kind}")) is not None]
        if known:
            lines.append(f"{kind} {text.percent(sum(known) / len(known))}")
    return lines or ["–"]


def _pareto(
    last: Sequence[Cell], lineup: str, order: Sequence[str], rate: str
) -> Iterator[tuple[str, Markup]]:
    """Draw safety against task gain, a panel for each job."""
    own = [cell for cell in last if cell.lineup == lineup]
    for job in dict.fromkeys(cell.job for cell in own):
        spots = [
            figures.Spot(cell.defence, _spot(cell.asked["task"]), _spot(cell.asked["harm"]))
            for cell in own
            if cell.job == job and {"harm", "task"} <= cell.asked.keys()
        ]
        if len(spots) > 1:
            label = f"{lineup} after {job}: {rate} against what was learnt"
            prefix = f"pareto-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
            svg = figures.pareto(spots, order, ylabel=rate, label=label, prefix=prefix)
            yield f"{lineup} after {job}", _safe(svg)


def _spot(one: Asked) -> tuple[float, float, float]:
    return one.after.value or 0.0, one.after.low, one.after.high


def _histograms(risks: Sequence[Risk], order: Sequence[str]) -> list[tuple[str, Markup]]:
    """Draw the risks that each defence's scorer gave, planted rows apart from honest ones."""
    found = []
    for name in order:
        own = [risk for risk in risks if risk.defence == name]
        planted = [value for risk in own for value in risk.planted]
        honest = [value for risk in own for value in risk.honest]
        if planted or honest:
            label = f"risks that {name} gave to planted and to honest rows"
            prefix = f"risk-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
            svg = figures.histogram(
                {"planted": planted, "honest": honest}, label=label, prefix=prefix
            )
            found.append((name, _safe(svg)))
    return found


def _safe(svg: str) -> Markup:
    from markupsafe import Markup

    return Markup(svg)


def cells_table(found: Provider, cells: Sequence[Cell]) -> Table:
    """Give cells as a table, in percent and points, each with its interval."""
    heads = ["line-up", "job", "defence", "examples", "seeds", "asked", "before", "after (95 %)",
             "change", "beside plain"]  # fmt: skip
    lines = []
    for cell in cells:
        job = f"{cell.job} (clean)" if cell.clean else cell.job
        for kind, one in cell.asked.items():
            share = f"{_plain(one.after.value)} ({_plain(one.after.low)}-{_plain(one.after.high)})"
            share = ", ".join([share, *_missing(one)])
            lines.append(
                [
                    cell.lineup,
                    job,
                    cell.defence,
                    f"{cell.budget:g}",
                    str(len(one.by_seed)),
                    kind,
                    _plain(one.before.value),
                    share,
                    signed(one.change),
                    "-" if one.beside is None else signed(one.beside),
                ]
            )
    return Table(heads, lines, found.about["loop"])


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def signed(gain: Gained) -> str:
    """Spell a difference in points with its interval, in plain characters."""
    if gain.value is None:
        return "-"
    return f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def contrasts_table(found: Sequence[Contrast]) -> Table:
    """Give defences set beside another, with the test over seeds."""
    heads = ["line-up", "job", "defence", "beside", "asked", "difference (95 %)", "seeds", "p"]
    return Table(
        heads,
        [
            [
                one.lineup,
                one.job,
                one.first,
                one.second,
                one.kind,
                signed(one.difference),
                str(one.seeds),
                "-" if one.p is None else f"{one.p:.3f}",
            ]
            for one in found
        ],
    )


LOSSES = {
    "ce_risky": "CE, risky", "kl_risky": "KL, risky", "ce_clean": "CE, others",
    "kl_clean": "KL, others",
}  # fmt: skip
"""What the last steps' losses are called, on rows above risk 0.5 and on the others."""


def risks_table(found: Provider) -> Table:
    """Give risks by job and scorer: means, and the share of training weight taken away.

    With it goes what the mixture law predicts of sampling on prompts that the rows planted.
    """
    draws = int(found.about.get("draws") or 1)
    heads = ["line-up", "job", "defence", "seed", "planted rows", "mean risk", "weight removed",
             "honest rows", "mean risk", "weight removed", f"any of {draws}, mixture law",
             *LOSSES.values()]  # fmt: skip
    lines = []
    for one in found.risks:
        line = [one.lineup, one.job, one.defence, str(one.seed)]
        for values, removed in (
            (one.planted, one.removed_planted), (one.honest, one.removed_honest),
        ):  # fmt: skip
            mean = f"{sum(values) / len(values):.3f}" if values else "-"
            line += [str(len(values)), mean, _plain(removed)]
        known = one.removed_planted
        line.append("-" if known is None else _plain(provider.leaked(known, draws)))
        line += [f"{one.losses[n]:.3g}" if n in one.losses else "-" for n in LOSSES]
        lines.append(line)
    return Table(heads, lines)
