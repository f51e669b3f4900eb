"""The report's first paragraph: what a release manager must know, in sentences.

The free attacks come first: what costs an attacker nothing decides before any price does.
"""

from __future__ import annotations

from holdfast.api import EvalPurpose
from holdfast.report import counted, text
from holdfast.report.gaps import gaps
from holdfast.report.judges import changes, warnings
from holdfast.report.names import SHOWN, listed
from holdfast.report.opened import already_open, free_sentence
from holdfast.report.prices import claim, fixed, paid_sentence, sooner, undefended
from holdfast.report.provider import sentences as hosts
from holdfast.stats.ranking import Ranking, ranking
from holdfast.stats.records import Findings
from holdfast.stats.use import Status


def sentences(found: Findings) -> list[str]:
    """Give the paragraph: what is missing, free attacks, paid ones, usefulness, what is claimed."""
    threat = found.headline
    said = [*gaps(found), *_attacked(found), *hosts(found), unranked(found)]
    if threat is not None:
        ranked = ranking(found, threat)
        costs = threat.costs[found.meta.thresholds[0]]
        said += [alone(found), fixed(found, threat) if ranked.fit else "", *_uses(found, ranked)]
        doubted = tuple(name for some in _doubted(found).values() for name in some)
        said += [
            sooner(costs[name], name, counted.told(found).alone)
            for name in (*_named(ranked), *doubted[:SHOWN])
        ]
        said += [undefended(found, threat), claim(found, threat)]
    said += warnings(found)
    return [sentence for sentence in said if sentence]


def short(found: Findings) -> list[str]:
    """Give the answer in three sentences, after what is missing: free, paid, which do not count.

    A fourth warns where the verdict changes with the judge.
    """
    threat = found.headline
    last = unranked(found) or alone(found) or (claim(found, threat) if threat else "")
    said = [*gaps(found), *_attacked(found), *hosts(found), last]
    said += changes(found)
    return [sentence for sentence in said if sentence]


def _attacked(found: Findings) -> list[str]:
    """Say what attacks did to weights; of a host's study without any, what it does not say."""
    if found.hosted is not None and not found.threats:
        return ["No attack on weights was run: nothing here is about somebody who holds them."]
    return [already_open(found), free_sentence(found), paid_sentence(found)]


def alone(found: Findings) -> str:
    """Say what a study of one model found of it as released; empty for one that compares."""
    if len(found.lineups) != 1:
        return ""
    ((name, line),) = found.lineups.items()
    rate, said = line.release.get(found.meta.headline), []
    if rate is not None and rate.value is not None:
        words, limit = counted.told(found), counted.limit(found)
        wrecked = line.use.degenerate.value or 0.0
        if rate.value == 0 and words is counted.UNREFUSED and not wrecked:
            said.append(f"{name} refuses all {rate.groups} restricted requests{limit}")
        else:
            said.append(
                f"{text.percent(rate.value, 0)} of {name}'s answers to {rate.groups} restricted"
                f" requests are {words.one}{limit}"
            )
    for kind, one in line.release.items():
        if found.purposes[kind] in RIGHT and one.value is not None:
            right = f"{text.percent(one.value, 0)} of {text.plural(one.groups, 'benign question')}"
            said.append(f"it gets {right} right")
        if found.purposes[kind] in REFUSALS and one.value is not None:
            asked = text.plural(one.groups, "benign request")
            said.append(f"it refuses {text.percent(one.value, 0)} of {asked}")
    return f"As released, {text.listed(said)}." if said else ""


RIGHT = (EvalPurpose.EXACT, EvalPurpose.GRADED)
"""Purposes of sets that count right answers to benign questions."""
REFUSALS = (EvalPurpose.REFUSED, EvalPurpose.OVER_REFUSAL)
"""Purposes of sets that count refusals."""


def _named(ranked: Ranking) -> tuple[str, ...]:
    """Give the line-ups to speak of by name: the first, or the few that share its place."""
    names = (ranked.first,) if ranked.first else ranked.unbeaten
    return tuple(name for name in names if name)[:SHOWN]


def unranked(found: Findings) -> str:
    """Name the line-ups that may not be ranked, and why."""
    bad = {n: line.use for n, line in found.lineups.items() if line.barred}
    doubts = _doubted(found)
    if not bad and not doubts:
        return ""
    parts = []
    for status in (Status.NOT_USABLE, Status.NOT_SHOWN):
        names = [n for n, used in bad.items() if used.status is status]
        if not names:
            continue
        word = "not usable" if status is Status.NOT_USABLE else "not shown to be of use"
        why = f" ({bad[names[0]].why})" if len(names) == 1 else ""
        parts.append(f"{listed(names)} {'is' if len(names) == 1 else 'are'} {word}{why}")
    fine = (Status.NOT_USABLE, Status.NOT_SHOWN)
    others = [n for n, used in bad.items() if used.status not in fine]
    parts += [f"{name} is {found.lineups[name].barred}" for name in others[:SHOWN]]
    if len(others) > SHOWN:
        parts.append(f"{len(others) - SHOWN} more are inert, invalid or incomplete")
    parts += [
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} {doubt}"
        for doubt, names in doubts.items()
    ]
    return f"Not ranked: {'; '.join(parts)}."


def _doubted(found: Findings) -> dict[str, list[str]]:
    """Give the line-ups whose price cannot be compared though nothing else bars them, by why."""
    threat = found.headline
    told: dict[str, list[str]] = {}
    if threat is None:
        return told
    for name, costs in threat.costs[found.meta.thresholds[0]].items():
        doubt = next((c.doubt for c in costs.values() if c.doubt and not c.at_release), "")
        if doubt and not found.lineups[name].barred:
            told.setdefault(doubt, []).append(name)
    return told


def _uses(found: Findings, ranked: Ranking) -> list[str]:
    """Say what the line-ups in question keep of the undefended model's usefulness."""
    names = _named(ranked)
    if ranked.first is None and len(ranked.unbeaten) > len(names):
        return [
            f"All {len(ranked.unbeaten)} are shown to keep at least"
            f" {text.percent(found.meta.least_use, 0)} of the undefended model's benign utility."
        ]
    return [_usefulness(found, name) for name in names]


def _usefulness(found: Findings, name: str) -> str:
    used = found.lineups[name].use
    if used.status is Status.REFERENCE:
        return ""
    return f"As released, {name}: {used.why}."
