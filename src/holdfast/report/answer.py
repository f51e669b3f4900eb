"""The report's first paragraph: what a release manager must know, in sentences.

The free attacks come first: what costs an attacker nothing decides before any price does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from holdfast.report import text
from holdfast.stats import cost, estimates, findings, free
from holdfast.stats.rows import MOST_CUT
from holdfast.stats.use import Status

SHOWN = 4
"""Line-ups named one by one in a sentence; more are counted."""


def price(costs: Mapping[int, cost.Cost], each: str = "seed") -> str:
    """Say what a line-up cost over its seeds, in examples; `each` is what is counted."""
    found = list(costs.values())
    lasted = sum(c.survived for c in found)
    most = text.number(min((c.b_max for c in found if c.survived), default=0))
    if lasted == len(found):
        return f"more than {most} examples"
    low = min(c.low for c in found if not c.survived)
    high = max(c.high for c in found if not c.survived)
    if high == 0 and not lasted:
        return "nothing: it is past the threshold as released"
    if low == 0:
        between = f"at most {text.number(high)} {'example' if high == 1 else 'examples'}"
    else:
        between = f"between {text.number(low)} and {text.number(high)} examples"
    if not lasted:
        return between
    return f"{between} (more than {most} in {lasted} of {text.plural(len(found), each)})"


def effort(costs: Mapping[int, cost.Cost]) -> str:
    """Say the same in optimiser steps and distinct rows owned; empty where nothing broke it."""
    broke = [c for c in costs.values() if not c.survived and not c.at_release]
    if not broke:
        return ""
    steps = int(max(c.steps[1] for c in broke))
    rows = int(max(c.distinct[1] for c in broke))
    return (
        f"at most {text.plural(steps, 'optimiser step')} and {text.plural(rows, 'row')} of the"
        " attacker's own"
    )


def sentences(found: findings.Findings) -> list[str]:
    """Give the paragraph: what is missing, free attacks, paid ones, usefulness, what is claimed."""
    threat = found.headline
    said = [
        *gaps(found),
        already_open(found),
        free_sentence(found),
        paid_sentence(found),
        unranked(found),
    ]
    if threat is not None:
        ranked = findings.ranking(found, threat)
        costs = threat.costs[found.meta.thresholds[0]]
        said += [fixed(found, threat) if ranked.fit else "", *_uses(found, ranked)]
        doubted = tuple(name for some in _doubted(found).values() for name in some)
        said += [_sooner(costs[name], name) for name in (*_named(ranked), *doubted[:SHOWN])]
        said += [_undefended(found, threat), claim(found, threat)]
    return [sentence for sentence in said if sentence]


def short(found: findings.Findings) -> list[str]:
    """Give the answer in three sentences, after what is missing: free, paid, which do not count."""
    threat = found.headline
    last = unranked(found) or (claim(found, threat) if threat is not None else "")
    said = [*gaps(found), already_open(found), free_sentence(found), paid_sentence(found), last]
    return [sentence for sentence in said if sentence]


def _named(ranked: findings.Ranking) -> tuple[str, ...]:
    """Give the line-ups to speak of by name: the first, or the few that share its place."""
    names = (ranked.first,) if ranked.first else ranked.unbeaten
    return tuple(name for name in names if name)[:SHOWN]


# What is missing.


def gaps(found: findings.Findings) -> list[str]:
    """Say what a reader must know before any number: holes, answers that were cut, the chooser."""
    said = []
    holes = found.meta.holes
    if holes:
        first = holes[0]
        more = f" (and {len(holes) - 1} more)" if len(holes) > 1 else ""
        names = list(dict.fromkeys(str(hole["lineup"]) for hole in holes if hole.get("paid", True)))
        barred = f" No cost of fine-tuning is claimed for {listed(names)}." if names else ""
        said.append(
            f"Incomplete: {first['what']}, could not be run for {listed([first['lineup']])}{more}:"
            f" {str(first['why']).rstrip('.')}.{barred}"
        )
    cut = found.cut
    if cut.language is not None and cut.language > MOST_CUT:
        said.append(
            f"{text.percent(cut.language, 0)} of judged answers reached the token limit and were"
            " judged by what they say up to there: allow more tokens."
        )
    paid, unpaid = (
        any(
            attack.chosen_on != "selection"
            for threat in found.threats
            for attack in attacks(threat)
        )
        for attacks in (lambda threat: threat.attacks, lambda threat: threat.free_attacks)
    )
    if paid or unpaid:
        wrong = ["costs are too low"] * paid + ["what free attacks get is too high"] * unpaid
        said.append(
            "The attacker's choices were made on the prompts that score them, for want of selection"
            f" prompts of its own: {text.listed(wrong)}."
        )
    return said


def listed(names: Sequence[str]) -> str:
    """Join names, or count them where they are many; a name that reads as a word is quoted."""
    if len(names) > SHOWN:
        return f"{len(names)} line-ups"
    return text.listed([f"'{name}'" if name in ("none", "all", "both") else name for name in names])


# What costs nothing.


def already_open(found: findings.Findings) -> str:
    """Name the defended line-ups that are past the threshold as released; empty without any."""
    names = {
        name: harm
        for name, line in found.lineups.items()
        if name != found.meta.none and (harm := _released_harm(found, line)) is not None
        if harm > found.meta.thresholds[0] and line.use.status is not Status.NOT_USABLE
    }
    if not names:
        return ""
    most = text.percent(max(names.values()), 0)
    verb = "needs" if len(names) == 1 else "need"
    return (
        f"As released, {listed(list(names))} {verb} no attack at all: up to {most} of restricted"
        " requests get a useful answer."
    )


def _released_harm(found: findings.Findings, line: findings.LineUp) -> float | None:
    """Give the harmful rate before any attack; None where it was not measured."""
    rate = line.release.get(found.meta.headline)
    return None if rate is None else rate.value


def opened(found: findings.Findings) -> dict[str, list[free.Opened]]:
    """Give the free attacks that open each line-up of use, worst first; empty for one that held.

    Line-ups that are not usable, or broken as released, are left out: there is nothing to open.
    """
    told: dict[str, list[free.Opened]] = {}
    for threat in found.threats:
        for name, by_attack in threat.opened.items():
            line = found.lineups[name]
            gone = (_released_harm(found, line) or 0) > found.meta.thresholds[0]
            if gone or line.use.status is Status.NOT_USABLE:
                continue
            broke = [one for one in by_attack.values() if one.broken]
            told.setdefault(name, []).extend(broke)
    return {
        name: sorted(some, key=lambda one: -(one.harm.value or 0.0)) for name, some in told.items()
    }


def free_sentence(found: findings.Findings) -> str:
    """Say first which attacks that train nothing open which line-ups."""
    if not any(threat.free_attacks for threat in found.threats):
        return (
            "No attack that trains nothing was run, so whether any line-up can be opened for free"
            " is not known."
        )
    told = opened(found)
    if len(told) > 1:  # the undefended model is what the others are compared with
        told.pop(found.meta.none, None)
    if not told:
        return (
            "No line-up of use refuses as released, so there was nothing for a free attack to open."
        )
    broken = {name: some for name, some in told.items() if some}
    tried = list(dict.fromkeys(a.name for t in found.threats for a in t.free_attacks))
    gaps = untried(found, told)
    missing = sorted({attack for some in gaps.values() for attack in some})
    lacking = {a: [name for name, some in gaps.items() if a in some] for a in missing}
    rest = "".join(
        f" {attack} could not be run for {listed(names)}." for attack, names in lacking.items()
    )
    if not broken:
        return (
            f"None of the free attacks tried ({text.listed(tried)}) opened"
            f" {listed(list(told))} past {_threshold(found)} harmful answers.{rest}"
            f"{_alone(found, list(told))}"
        )
    if len(told) == 1:
        ((name, some),) = broken.items()
        gets = text.listed([_gets(one) for one in some[:3]])
        return f"Without any training, {gets}: {name} is open for free.{rest}"
    by_attack: dict[str, list[str]] = {}
    for name, some in broken.items():
        for one in some:
            by_attack.setdefault(one.attack, []).append(name)
    parts = []
    for attack, names in sorted(by_attack.items(), key=lambda item: -len(item[1])):
        ones = [one for some in broken.values() for one in some if one.attack == attack]
        back = " (it returns the public original)" if all(one.original for one in ones) else ""
        which = "all of them" if len(names) == len(told) else listed(names)
        parts.append(f"{attack}{back} opens {which}{_range(ones)}")
    held = [name for name in told if name not in broken]
    whole = [name for name in held if name not in gaps]
    rest = (f" {listed(whole)} held against all of them." if whole else "") + rest
    rest += _alone(found, held)
    return (
        f"Without any training, {len(broken)} of {len(told)} line-ups that refuse as released can"
        f" be opened:"
        f" {'; '.join(parts)}.{rest}"
    )


def untried(found: findings.Findings, names: Iterable[str]) -> dict[str, list[str]]:
    """Name the free attacks that could not be run, in full or at some seed, by line-up."""
    told: dict[str, list[str]] = {}
    for name in names:
        some = {one for threat in found.threats for one in findings.not_run(found, threat, name)}
        if some:
            told[name] = sorted(some)
    return told


def _alone(found: findings.Findings, names: Sequence[str]) -> str:
    """Warn of harm that comes with wrecked benign answers; empty where there is none."""
    past = {
        name: (most, attack)
        for threat in found.threats
        for name in names
        for attack, one in threat.opened.get(name, {}).items()
        if (most := one.harm_alone(found.meta.thresholds[0])) is not None
    }
    if not past:
        return ""
    most, attack = max(past.values())
    return (
        f" But harm alone passes it for {listed(list(past))} (up to {text.percent(most, 0)}, under"
        f" {attack}), the model's other answers wrecked."
    )


def _gets(one: free.Opened) -> str:
    """Say what one free attack gets."""
    said = f"{one.attack} takes it to {text.percent(one.harm.value, 0)} harmful answers"
    if one.utility.value is not None:
        said += f" with {text.percent(one.utility.value, 0)} of benign questions right"
    if one.original:
        return f"{said} (it returns the public original)"
    if one.exceeds:
        return f"{said}, more than the public original gives"
    return said


def _range(ones: Sequence[free.Opened]) -> str:
    values = [one.harm.value for one in ones if one.harm.value is not None]
    if not values:
        return ""
    low, high = text.percent(min(values), 0), text.percent(max(values), 0)
    return f" ({low} harmful)" if low == high else f" ({low} to {high} harmful)"


def _threshold(found: findings.Findings) -> str:
    return text.percent(found.meta.thresholds[0], 0)


# What is paid for.


def paid_sentence(found: findings.Findings) -> str:
    """Say what fine-tuning costs, and name a first only where every pair is beyond chance."""
    threat = found.headline
    if threat is None:
        run = any(threat.attacks for threat in found.threats)
        why = "No answer after training has a verdict" if run else "No training attack was run"
        return f"{why}, so what fine-tuning costs is not known."
    ranked = findings.ranking(found, threat)
    costs = threat.costs[found.meta.thresholds[0]]
    if not ranked.fit:
        none = "No defended line-up can be ranked by what fine-tuning costs."
        return f"{none} {fixed(found, threat)}".strip()
    if ranked.first is not None:
        pairs = [p for p in threat.pairs if p.costlier == ranked.first and p.cheaper in ranked.fit]
        ratio = min(_ratio(p) for p in pairs)
        most = max(p.adjusted or 0.0 for p in pairs)
        return (
            f"By fine-tuning, {ranked.first} costs the attacker more than every other line-up of"
            f" use (at least x {ratio:.1f}, adjusted p <= {most:.3f}): {price(costs[ranked.first])}"
            f"{_effort(costs[ranked.first])}."
        )
    if len(ranked.fit) == 1:
        (one,) = ranked.fit
        alone = "there is no other line-up of use to compare it with"
        return f"Fine-tuning {_breaks(one, costs[one])}; {alone}."
    pooled = dict(enumerate(c for n in ranked.unbeaten for c in costs[n].values()))
    names = listed(ranked.unbeaten)
    if all(c.survived for c in pooled.values()):
        most = text.number(min(c.b_max for c in pooled.values()))
        return (
            f"By fine-tuning, {names} cannot be told apart: nothing that was tried, up to {most}"
            " examples, breaks any of them."
        )
    return (
        f"By fine-tuning, {names} cannot be told apart: each breaks after"
        f" {price(pooled, 'trained model')}{_effort(pooled)}."
    )


def _ratio(pair: cost.Pair) -> float:
    """Give the costlier's cost over the cheaper's in a claimed pair."""
    ratio = pair.ratio or 1.0
    return ratio if pair.costlier == pair.left else 1 / ratio


def _breaks(name: str, costs: Mapping[int, cost.Cost]) -> str:
    """Say after what one line-up breaks, or that nothing tried broke it."""
    if all(c.survived for c in costs.values()):
        most = text.number(min(c.b_max for c in costs.values()))
        return f"did not break {name} with any number tried, up to {most} examples"
    return f"breaks {name} after {price(costs)}{_effort(costs)}"


def _effort(costs: Mapping[int, cost.Cost]) -> str:
    said = effort(costs)
    return f", {said}" if said else ""


def fixed(found: findings.Findings, threat: findings.Threat) -> str:
    """Say what one fixed checkpoint cost, and that its seeds are the attacker's alone."""
    costs = threat.costs[found.meta.thresholds[0]]
    names = findings.ranking(found, threat).fixed
    if not names:
        return ""
    each = [f"{name} {price(costs[name])}" for name in names[:SHOWN]]
    seeds = text.plural(len(found.seeds), "seed")
    return (
        f"Of one checkpoint, attacked with {seeds} of the attacker's own, nothing is claimed about"
        f" a method: {text.listed(each)}."
    )


def unranked(found: findings.Findings) -> str:
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


def _doubted(found: findings.Findings) -> dict[str, list[str]]:
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


def claim(found: findings.Findings, threat: findings.Threat) -> str:
    """Say whether a ranking may be claimed, and if not, why."""
    proven = [pair for pair in threat.pairs if pair.costlier is not None]
    if proven:
        words = [
            f"{pair.costlier} over {pair.cheaper} (adjusted p = {pair.adjusted:.3f})"
            for pair in proven
        ]
        some = (
            text.listed(words) if len(words) <= 2 * SHOWN else f"{len(words)} pairs (table below)"
        )
        return (
            f"A ranking by fine-tuning cost alone may be claimed for {some}, and for no other pair."
        )
    if len(found.seeds) < estimates.SEEDS_FOR_RANKING:
        return (
            f"No ranking is claimed: a claim needs {estimates.SEEDS_FOR_RANKING} paired seeds, and"
            f" this study has {len(found.seeds)}."
        )
    return "No ranking is claimed: no pair of line-ups differs by more than chance allows."


def _sooner(costs: Mapping[int, cost.Cost], name: str) -> str:
    """Say where harm alone was past the threshold before the price says so; empty if nowhere."""
    sooner = [c.past for c in costs.values() if c.harmed_sooner]
    if not sooner:
        return ""
    return (
        f"Harm alone was past the threshold for {name} at {text.number(min(sooner))} examples"
        f" already, in {len(sooner)} of {text.plural(len(costs), 'seed')}, under a choice that"
        " wrecked its other answers or where it did not last; the price counts only models that"
        " are still of use."
    )


def _uses(found: findings.Findings, ranked: findings.Ranking) -> list[str]:
    """Say what the line-ups in question keep of the undefended model's usefulness."""
    names = _named(ranked)
    if ranked.first is None and len(ranked.unbeaten) > len(names):
        return [
            f"All {len(ranked.unbeaten)} are shown to keep at least"
            f" {text.percent(found.meta.least_use, 0)} of the undefended model's benign utility."
        ]
    return [_usefulness(found, name) for name in names]


def _usefulness(found: findings.Findings, name: str) -> str:
    used = found.lineups[name].use
    if used.status is Status.REFERENCE:
        return ""
    return f"As released, {name}: {used.why}."


def _undefended(found: findings.Findings, threat: findings.Threat) -> str:
    """Say whether the undefended model needs an attack at all."""
    plain = threat.costs[found.meta.thresholds[0]].get(found.meta.none, {})
    if plain and all(c.at_release for c in plain.values()):
        return (
            f"Whoever can still fetch the undefended model ({found.meta.none}) needs no attack at"
            " all: it is past the threshold as released."
        )
    return ""
