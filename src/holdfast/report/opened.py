"""What attacks that train nothing get, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from holdfast.report import text
from holdfast.report.counted import limit, told
from holdfast.report.names import listed
from holdfast.stats import free
from holdfast.stats.ranking import not_run
from holdfast.stats.records import Findings, LineUp
from holdfast.stats.use import Status


def already_open(found: Findings) -> str:
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
        f" requests {told(found).useful}{limit(found)}."
    )


def _released_harm(found: Findings, line: LineUp) -> float | None:
    """Give the harmful rate before any attack; None where it was not measured."""
    rate = line.release.get(found.meta.headline)
    return None if rate is None else rate.value


def opened(found: Findings) -> dict[str, list[free.Opened]]:
    """Give the free attacks that open each line-up of use, worst first; empty for one that held.

    Line-ups that are not usable, or broken as released, are left out: there is nothing to open.
    """
    told: dict[str, list[free.Opened]] = {}
    for threat in found.threats:
        for name, by_attack in threat.opened.items():
            if not _to_open(found, found.lineups[name]):
                continue
            broke = [one for one in by_attack.values() if one.broken]
            told.setdefault(name, []).extend(broke)
    return {
        name: sorted(some, key=lambda one: -(one.harm.value or 0.0)) for name, some in told.items()
    }


def _to_open(found: Findings, line: LineUp) -> bool:
    """Say whether a line-up is of use and refuses as released."""
    gone = (_released_harm(found, line) or 0) > found.meta.thresholds[0]
    return not gone and line.use.status is not Status.NOT_USABLE


def free_sentence(found: Findings) -> str:
    """Say first which attacks that train nothing open which line-ups."""
    if not any(threat.free_attacks for threat in found.threats):
        return (
            "No attack that trains nothing was run, so whether any line-up can be opened for free"
            " is not known."
        )
    rated = opened(found)
    if len(rated) > 1:  # the undefended model is what the others are compared with
        rated.pop(found.meta.none, None)
    if not rated:
        return _nothing_rated(found)
    broken = {name: some for name, some in rated.items() if some}
    tried = list(dict.fromkeys(a.name for t in found.threats for a in t.free_attacks))
    gaps = untried(found, rated)
    missing = sorted({attack for some in gaps.values() for attack in some})
    lacking = {a: [name for name, some in gaps.items() if a in some] for a in missing}
    rest = "".join(
        f" {attack} could not be run for {listed(names)}." for attack, names in lacking.items()
    )
    if not broken:
        return (
            f"None of the free attacks tried ({text.listed(tried)}) opened"
            f" {listed(list(rated))} past {_threshold(found)} {told(found).answers}"
            f"{limit(found)}.{rest}"
            f"{_alone(found, list(rated))}"
        )
    if len(rated) == 1:
        ((name, some),) = broken.items()
        gets = text.listed([_gets(one, found) for one in some[:3]])
        return f"Without any training, {gets}{limit(found)}: {name} is open for free.{rest}"
    by_attack: dict[str, list[str]] = {}
    for name, some in broken.items():
        for one in some:
            by_attack.setdefault(one.attack, []).append(name)
    parts = []
    for attack, names in sorted(by_attack.items(), key=lambda item: -len(item[1])):
        ones = [one for some in broken.values() for one in some if one.attack == attack]
        back = " (it returns the public original)" if all(one.original for one in ones) else ""
        which = "all of them" if len(names) == len(rated) else listed(names)
        parts.append(f"{attack}{back} opens {which}{_range(ones, told(found).one)}")
    held = [name for name in rated if name not in broken]
    whole = [name for name in held if name not in gaps]
    rest = (f" {listed(whole)} held against all of them." if whole else "") + rest
    rest += _alone(found, held)
    return (
        f"Without any training, {len(broken)} of {len(rated)} line-ups that refuse as released can"
        f" be opened:"
        f" {'; '.join(parts)}{limit(found)}.{rest}"
    )


def _nothing_rated(found: Findings) -> str:
    """Say why no free attack has a figure: none has answers, or there was nothing to open."""
    left = [
        name
        for name, line in found.lineups.items()
        if name != found.meta.none and _to_open(found, line)
    ]
    if not left:
        return (
            "No line-up of use refuses as released, so there was nothing for a free attack to open."
        )
    which = {attack.name for threat in found.threats for attack in threat.free_attacks}
    them = "it" if len(left) == 1 else "they"
    return (
        f"{text.listed(sorted(which))} could not be run for {listed(left)}: whether {them}"
        " can be opened for free is not known."
    )


def untried(found: Findings, names: Iterable[str]) -> dict[str, list[str]]:
    """Name the free attacks that could not be run, in full or at some seed, by line-up."""
    told: dict[str, list[str]] = {}
    for name in names:
        some = {one for threat in found.threats for one in not_run(found, threat, name)}
        if some:
            told[name] = sorted(some)
    return told


def _alone(found: Findings, names: Sequence[str]) -> str:
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
        f" But {told(found).alone} passes it for {listed(list(past))} (up to"
        f" {text.percent(most, 0)}, under {attack}), the model's other answers wrecked."
    )


def _gets(one: free.Opened, found: Findings) -> str:
    """Say what one free attack gets; one that changes prompts alone leaves benign answers be."""
    said = f"{one.attack} takes it to {text.percent(one.harm.value, 0)} {told(found).answers}"
    if one.attack in found.meta.prompts:
        return f"{said} and changes no weight, so its benign answers stay as released"
    if one.utility.value is not None:
        said += f" with {text.percent(one.utility.value, 0)} of benign questions right"
    if one.original:
        return f"{said} (it returns the public original)"
    if one.exceeds:
        return f"{said}, more than the public original gives"
    return said


def _range(ones: Sequence[free.Opened], word: str) -> str:
    values = [one.harm.value for one in ones if one.harm.value is not None]
    if not values:
        return ""
    low, high = text.percent(min(values), 0), text.percent(max(values), 0)
    return f" ({low} {word})" if low == high else f" ({low} to {high} {word})"


def _threshold(found: Findings) -> str:
    return text.percent(found.meta.thresholds[0], 0)
