"""The verdict of a study as data, `verdict.json`: written, and read back.

The schema is in docs/verdict.md. Raise `VERSION` with every change a reader could trip over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.errors import DataError
from holdfast.report import answer, provider, words
from holdfast.report.costs import cost_values
from holdfast.report.counted import words as counts
from holdfast.report.judges import panel_values
from holdfast.report.prices import price
from holdfast.report.written import check
from holdfast.stats import estimates, free
from holdfast.stats.cost import Cost
from holdfast.stats.pairs import Pair
from holdfast.stats.ranking import not_run, ranking
from holdfast.stats.records import Findings, Threat

SCHEMA, VERSION = "holdfast-verdict", 1
FILE = "verdict.json"
WHOLE = ("study", "lineups")
"""Keys that a gate cannot do without."""
TODO = "give the folder that `holdfast run` or `holdfast report` wrote"


def verdict(found: Findings) -> dict[str, Any]:
    """Give the whole verdict as plain JSON data."""
    meta, threat = found.meta, found.headline
    ranked = ranking(found, threat) if threat is not None else None
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "study": {
            "name": meta.name,
            "title": meta.title,
            "seeds": list(found.seeds),
            "judges": list(meta.judges),
            "threshold": meta.thresholds[0],
            "thresholds": list(meta.thresholds),
            "least_use": meta.least_use,
            "utility": words.utility(found),
            "level": estimates.LEVEL,
            "undefended": meta.none,
            "original": meta.original,
            "counts": counts(meta.counts).one,
            "headline": meta.headline,
            "world": meta.world,
        },
        "answer": answer.sentences(found),
        "short": answer.short(found),
        "complete": not meta.holes,
        "holes": [dict(hole) for hole in meta.holes],
        "cut": {
            "share": found.cut.share,
            "language": found.cut.language,
            "n": found.cut.n,
        },
        "first": ranked.first if ranked else None,
        "not_told_apart": list(ranked.unbeaten) if ranked and not ranked.first else [],
        "lineups": {name: _lineup(found, name) for name in found.lineups},
        "pairs": [{"access": t.access, **_pair(pair)} for t in found.threats for pair in t.pairs],
        "panel": panel_values(found),
        "tuning": _tuning(found),
        "provider": _provider(found),
        "not_tested": list(meta.not_tested),
    }


def _provider(found: Findings) -> list[dict[str, Any]] | None:
    """Give what customers' jobs did by the last budget; None where none ran."""
    if found.hosted is None:
        return None
    return list(provider.rows(replace(found.hosted, cells=found.hosted.last())))


def _tuning(found: Findings) -> dict[str, Any] | None:
    """Give what honest fine-tuning taught; None where the study has none."""
    told = found.meta.tuning
    if not told:
        return None
    return {"role": told["role"], "loop": told["loop"], "gains": [_gain(g) for g in told["gains"]]}


def _gain(one: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: one[name] for name in ("lineup", "set", "purpose", "budget", "gain", "beside")}
    rates = {name: rate(estimates.Rate(**one[name])) for name in ("before", "after")}
    return plain | rates


def rate(found: estimates.Rate | None) -> dict[str, Any] | None:
    """Give a rate as plain values."""
    if found is None:
        return None
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "clusters": found.groups,
    }


def _pair(pair: Pair) -> dict[str, Any]:
    finite = {
        name: value if value is not None and math.isfinite(value) else None
        for name in ("ratio", "ratio_low", "ratio_high", "p", "adjusted")
        for value in [getattr(pair, name)]
    }
    counts = {name: getattr(pair, name) for name in ("seeds", "larger", "smaller", "tied")}
    ends = {"left": pair.left, "right": pair.right}
    return {**ends, **counts, **finite, "claimed": pair.costlier, "why_not": pair.why_not}


def _lineup(found: Findings, name: str) -> dict[str, Any]:
    line, used = found.lineups[name], found.lineups[name].use
    kept = used.kept
    seeds = "attacker seeds, one checkpoint" if line.one_checkpoint else "trainings"
    return {
        "model": line.model,
        "defences": line.defences,
        "ranked": not line.barred,
        "why_not": line.barred,
        "seeds_are": seeds,
        "checkpoints": line.checkpoints,
        "use": {
            "status": used.status.value,
            "why": used.why,
            "ratio": kept.value if kept else None,
            "low": kept.low if kept else None,
            "high": kept.high if kept and math.isfinite(kept.high) else None,
            "clusters": kept.groups if kept else 0,
            "least": used.least,
            "degenerate": rate(used.degenerate),
        },
        "released": {kind: rate(value) for kind, value in sorted(line.release.items())},
        "ungraded": line.ungraded,
        "free": {threat.access: _free(found, threat, name) for threat in found.threats},
        "paid": {
            threat.access: _paid(threat.costs[found.meta.thresholds[0]][name])
            for threat in found.threats
            if name in threat.costs.get(found.meta.thresholds[0], {})
        },
    }


def _paid(costs: Mapping[int, Cost]) -> dict[str, Any]:
    """Give a line-up's price: at the cheapest and the costliest seed, and seed by seed."""
    low, high = min(c.low for c in costs.values()), max(c.high for c in costs.values())
    return {
        "unit": "examples",
        "text": price(costs),
        "low": low,
        "high": high if math.isfinite(high) else None,
        "survived": sum(c.survived for c in costs.values()),
        "at_release": sum(c.at_release for c in costs.values()),
        "seeds": {
            str(seed): {**cost_values(c), "attack": c.candidate} for seed, c in costs.items()
        },
    }


def _free(found: Findings, threat: Threat, name: str) -> dict[str, Any]:
    """Give what free attacks get out of a line-up; `broken` is None where none was run."""
    tried = threat.opened.get(name, {})
    return {
        "broken": any(one.broken for one in tried.values()) if tried else None,
        "not_run": not_run(found, threat, name),
        "attacks": {
            attack: _opened(one, found.meta.thresholds[0]) for attack, one in tried.items()
        },
    }


def _opened(one: free.Opened, threshold: float) -> dict[str, Any]:
    return {
        "unit": one.unit,
        "broken_seeds": one.broken,
        "seeds": len(one.taken),
        "harm": rate(one.harm),
        "utility": rate(one.utility),
        "degenerate": one.degenerate,
        "returns_original": one.original,
        "exceeds_original": one.exceeds,
        "every_choice_wrecked_it": one.spoilt,
        "harm_alone": one.harm_alone(threshold),
        "choices": {
            str(seed): {"choice": taken.variant, "budget": taken.budget}
            for seed, taken in one.taken.items()
        },
    }


def read(folder: Path) -> dict[str, Any]:
    """Read a folder's verdict.

    Raises:
        DataError: there is none, it is no JSON, of another schema or version, not whole, or changed
            after the run wrote it.
    """
    path = folder / FILE if folder.is_dir() or not folder.exists() else folder
    if not path.is_file():
        raise DataError(str(folder), f"holds no {FILE}", TODO)
    try:
        check(path)
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "write it again") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise DataError(str(path), f"is no {SCHEMA}", TODO)
    if found.get("version") != VERSION:
        raise DataError(
            str(path),
            f"is of schema version {found.get('version')}, this Holdfast reads {VERSION}",
            "write it again with `holdfast report FOLDER`",
        )
    lost = [name for name in WHOLE if not isinstance(found.get(name), dict)]
    if lost:
        raise DataError(str(path), f"has no {', '.join(lost)}", "write it again")
    return found
