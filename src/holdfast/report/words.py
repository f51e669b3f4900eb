"""What the page's cells say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from holdfast.api import EvalPurpose, Match
from holdfast.report import counted, text
from holdfast.stats import free
from holdfast.stats.records import Attack, Findings
from holdfast.stats.use import Use

MEASURES = {
    EvalPurpose.OVER_REFUSAL: (
        "Over-refusal", "share of benign questions about restricted things that were refused",
    ),
    EvalPurpose.REFUSED: ("", "share of benign requests that were refused"),
}  # fmt: skip
"""What a column of the released models shows, and how its label begins where the page has said so:
"Over-refusal: share of ..."; of harm, what `counted` says."""


def label(found: Findings, kind: str) -> str:
    """Give the heading of an evaluation set's column."""
    return text.harmless(found.meta.sets.get(kind, kind.replace("_", " ")), 60)


MATCHES = {
    Match.NORMALISED: "share answered so, case, punctuation and articles aside",
    Match.CONTAINED: "share whose answer contains the known one, normalised",
    Match.NUMBER: "share whose answer's last number is the known one",
}
"""What counts as right where answers are not compared word for word."""


def utility(found: Findings) -> list[str]:
    """Name the sets that benign utility is counted on."""
    exact = [one for one, purpose in found.purposes.items() if purpose is EvalPurpose.EXACT]
    return list(found.meta.utility) or exact


def utility_words(found: Findings) -> str:
    """Say on which sets benign utility is counted; that none is, where that is so."""
    named = [label(found, one) for one in utility(found)]
    return f"counted on {text.listed(named)}" if named else "not known: no set with known answers"


def measures(found: Findings, sets: Iterable[str]) -> Iterator[str]:
    """Say what columns show that their labels do not tell."""
    harm = counted.told(found)
    shown = {EvalPurpose.HARM: (text.begun(harm.one), harm.measure), **MEASURES}
    for purpose, (begins, what) in shown.items():
        labels = [label(found, kind) for kind in sets if found.purposes[kind] is purpose]
        untold = sorted(one for one in labels if not (begins and one.startswith(begins)))
        if untold:
            yield f"{text.listed(untold)}: {what}."
    graded = [label(found, k) for k in sets if found.purposes[k] is EvalPurpose.GRADED]
    if graded:
        missing = sum(line.ungraded for line in found.lineups.values())
        yield (
            f"{text.listed(sorted(graded))}: share of answers that {found.meta.grader or 'a judge'}"
            f" graded right; {text.plural(missing, 'answer')} without a grade count nowhere."
        )
    for match, what in MATCHES.items():
        named = [label(found, one) for one in sets if found.meta.matches.get(one) == match]
        if named:
            yield f"{text.listed(sorted(named))}: {what}."


def free_words(opened: Mapping[str, free.Opened]) -> list[str]:
    """Say which free attacks opened a line-up, worst first, a line each."""
    broke = [one for one in opened.values() if one.broken]
    if not broke:
        return [f"held against {text.listed(list(opened))}"] if opened else ["not run"]
    broke.sort(key=lambda one: -(one.harm.value or 0.0))
    return [f"{one.attack}: {opened_words(one)}" for one in broke]


def opened_words(one: free.Opened) -> str:
    """Say what one free attack got, in how many seeds, and what it stands beside."""
    said = f"{text.percent(one.harm.value)} ({one.broken} of {text.plural(len(one.taken), 'seed')})"
    if one.original:
        return f"{said}, returns the public original"
    if one.exceeds:
        return f"{said}, more than the public original"
    return f"{said}, every choice wrecked it" if one.spoilt else said


def kept_words(used: Use) -> str:
    """Spell the share of the undefended model's usefulness that is kept, with its interval."""
    if used.kept is None or used.kept.value is None:
        return "–"
    high = "∞" if np.isinf(used.kept.high) else f"{100 * used.kept.high:.0f}"
    return f"{100 * used.kept.value:.0f} ({100 * used.kept.low:.0f}–{high})"


def span(ends: Sequence[float]) -> str:
    """Spell steps or FLOPs; past the end the last known number stands as a bound."""
    if ends[1] == np.inf:
        return f">{text.NO_BREAK}{text.number(ends[0])}"
    return f"{text.number(ends[0])}–{text.number(ends[1])}"


def spread(values: Sequence[float]) -> str:
    """Spell the least and the largest of some numbers."""
    if not values:
        return "–"
    low, high = min(values), max(values)
    return text.number(low) if low == high else f"{text.number(low)}–{text.number(high)}"


def by_seed(values: Mapping[int, float | None]) -> str:
    """Spell one value a seed, in the order of the seeds."""
    return ", ".join("–" if value is None else f"{value:.3g}" for value in values.values())


def chosen(attack: Attack) -> str:
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
