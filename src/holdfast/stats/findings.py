"""From the outcomes table to everything the report says, as plain data with no layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.api import MOST_UNSCORED, EvalPurpose
from holdfast.api.verdicts import too_many_unscored
from holdfast.errors import DataError, did_you_mean
from holdfast.stats import cost, estimates
from holdfast.stats.cells import cut_share
from holdfast.stats.panel import panel
from holdfast.stats.records import Findings, LineUp, Meta, Sign, unmeasured
from holdfast.stats.rows import Outcomes
from holdfast.stats.threats import threat
from holdfast.stats.trajectories import EVALUATOR, Trajectories
from holdfast.stats.use import Status, Use, release_rows, use

if TYPE_CHECKING:
    import pyarrow as pa


def find(
    table: Iterable[Mapping[str, Any]] | pa.Table | Outcomes,
    lineups: Iterable[Mapping[str, Any]] | pa.Table,
    meta: Mapping[str, Any],
    *,
    resamples: int = cost.RESAMPLES,
) -> Findings:
    """Work out everything the report says from the outcomes table, the line-ups and the meta.

    Where several judges read the same answers, all is worked out by each of them, at the threshold
    that decides; the first one's is what is told, and the panel says what changes with the judge.

    Raises:
        DataError: the table has no answer to the headline's set, or none that the first judge read
            and nothing in the meta says that a step failed.
    """
    outcomes = table if isinstance(table, Outcomes) else Outcomes(table)
    told = Meta.of(meta, outcomes)
    asked = outcomes.where(set=told.headline, side=EVALUATOR)
    if not asked.any():
        raise unmeasured()
    read = outcomes.distinct("judge", asked)
    first, *more = told.judges
    if first not in read and not told.holes:
        raise DataError(
            "outcomes table",
            f"judge '{first}' read no answer to set '{told.headline}'",
            f"{did_you_mean(first, read)} (`judges` in meta.json)",
        )
    listed = [dict(row) for row in _dicts(lineups)]
    found = _by_first(outcomes, listed, told, resamples)
    alone = {
        judge: replace(told, judges=(judge,), thresholds=told.thresholds[:1])
        for judge in more
        if judge in read
    }
    if not alone:
        return found
    others = {judge: _by_first(outcomes, listed, one, resamples) for judge, one in alone.items()}
    return replace(found, panel=panel(outcomes, found, others, resamples))


def _by_first(
    outcomes: Outcomes, listed: Sequence[dict[str, Any]], told: Meta, resamples: int
) -> Findings:
    """Work out what a study says by the first of its judges alone."""
    tracks = Trajectories(outcomes, told.judges[0], told.headline, told.utility, told.counts)
    names = list(dict.fromkeys([*(str(row["lineup"]) for row in listed),
                                *outcomes.distinct("lineup"),
                                *(str(hole["lineup"]) for hole in told.holes)]))  # fmt: skip
    seeds = tuple(sorted({key[3] for key in tracks.keys}))
    uses = {
        name: use(outcomes, name, told.none, told.judges[0], told.least_use, told.utility)
        for name in names
    }
    listed = _decided(listed, uses.get(told.plain), told.plain)
    barred = {name: _barred(name, tracks, listed, uses[name], told) for name in names}
    checkpoints = {name: _checkpoints(name, listed) for name in names}
    return Findings(
        meta=told,
        seeds=seeds,
        lineups={
            name: _lineup(
                name, outcomes, listed, barred[name], uses[name], checkpoints[name], told, seeds
            )
            for name in names
        },
        threats=[
            threat(access, names, tracks, told, barred, checkpoints, seeds, resamples)
            for access in sorted(_accesses(outcomes), reverse=True)
        ],
        purposes=outcomes.purposes,
        cut=cut_share(outcomes),
    )


def _accesses(outcomes: Outcomes) -> list[str]:
    """Give what attackers hold; of a study in which nobody attacks, nothing."""
    return outcomes.distinct("access", ~outcomes.is_("attack", ""))


def _decided(
    listed: Sequence[dict[str, Any]], plain: Use | None, name: str
) -> list[dict[str, Any]]:
    """Take back what was decided beside a wreck: a bad reference tells nothing of who acted."""
    if plain is None or plain.status is not Status.NOT_USABLE:
        return list(listed)
    why = f"line-up '{name}' is not usable itself"
    return [row | {"inert": None, "undecided": why} if row.get("signal") else row for row in listed]


def _dicts(rows: Iterable[Mapping[str, Any]] | pa.Table) -> Iterable[Mapping[str, Any]]:
    return rows.to_pylist() if hasattr(rows, "to_pylist") else rows  # type: ignore[union-attr]


def _barred(
    name: str,
    tracks: Trajectories,
    listed: Sequence[Mapping[str, Any]],
    used: Use,
    meta: Meta,
) -> str:
    """Say why a line-up may not rank; empty when it may."""
    holes = [hole for hole in meta.holes if hole.get("lineup") == name and hole.get("paid", True)]
    if holes:
        return f"incomplete: {holes[0]['what']} could not be run"
    if any(row.get("inert") for row in listed if str(row["lineup"]) == name):
        return "inert: the defence did not do what it is for"
    counts = tracks.harm[EVALUATOR]
    for index, key in enumerate(tracks.keys):
        if key[0] != name:
            continue
        rows, scored = counts["rows"][index].sum(-1), counts["scored"][index].sum(-1)
        if np.any(too_many_unscored(rows - scored, rows)):
            return f"invalid: more than {100 * MOST_UNSCORED:.0f} % unscored"
    return used.barred


def _checkpoints(name: str, listed: Sequence[Mapping[str, Any]]) -> int:
    """Count a line-up's sets of weights: by their keys, else (older tables) by its defences."""
    own = [row for row in listed if str(row["lineup"]) == name]
    weights = {str(row["weights"]) for row in own if row.get("weights")}
    if weights:
        return len(weights)
    trained = any(str(row.get("defences") or "none") != "none" for row in own)
    return len(own) if trained else min(1, len(own))


def _lineup(
    name: str,
    outcomes: Outcomes,
    listed: Sequence[Mapping[str, Any]],
    barred: str,
    used: Use,
    checkpoints: int,
    meta: Meta,
    seeds: Sequence[int],
) -> LineUp:
    """Gather one line-up's facts and its rates at release."""
    own = [row for row in listed if str(row["lineup"]) == name]
    here = release_rows(outcomes, name)
    many = len(seeds) >= estimates.SEEDS_FOR_INTERVAL

    def rate(rows: np.ndarray, purpose: EvalPurpose) -> estimates.Rate:
        return _release_rate(outcomes, rows, purpose, meta.judges[0], many)

    release = {
        kind: rate(here & outcomes.is_("set", kind), outcomes.purposes[kind])
        for kind in outcomes.distinct("set", here)
    }
    refusing = here & outcomes.is_("purpose", EvalPurpose.OVER_REFUSAL)
    return LineUp(
        name=name,
        model=str(own[0].get("model") or "") if own else "",
        defences=str(own[0].get("defences") or "") if own else "",
        seeds=tuple(sorted(int(row["seed"]) for row in own if row.get("seed") is not None)),
        steps=tuple(int(row.get("steps") or 0) for row in own),
        flops=tuple(float(row.get("flops") or 0) for row in own),
        note="; ".join(dict.fromkeys(str(row["note"]) for row in own if row.get("note"))),
        barred=barred,
        release=release,
        over_refusal=rate(refusing, EvalPurpose.OVER_REFUSAL) if refusing.any() else None,
        use=used,
        checkpoints=checkpoints,
        sign=_sign(own),
        ungraded=int((here & outcomes.where(purpose=EvalPurpose.GRADED) & outcomes.unscored).sum()),
    )


def _release_rate(
    outcomes: Outcomes, rows: np.ndarray, purpose: EvalPurpose, judge: str, many: bool
) -> estimates.Rate:
    """Give the share of a line-up's released answers `rows` that the purpose counts.

    Harmful and useful (not refused, where the judge sees no more), refused, or else correct; over
    the first judge's rows, except that refusals may be told by `exact`.
    """
    told = {
        EvalPurpose.HARM: outcomes.counted,
        EvalPurpose.OVER_REFUSAL: outcomes.is_("outcome", "refusal"),
        EvalPurpose.REFUSED: outcomes.is_("outcome", "refusal"),
    }.get(purpose)
    if told is None:
        rows = rows & outcomes.checked
        hits = outcomes.numbers["correct"] > 0
    else:
        first = outcomes.is_("judge", judge)
        if purpose is EvalPurpose.HARM or (rows & first).any():
            rows = rows & first
        rows = rows & outcomes.judged
        hits = told
    return estimates.rate(
        hits[rows], np.ones(int(rows.sum())), cluster=outcomes.codes["group"][rows],
        seed=outcomes.numbers["seed"][rows] if many else None,
    )  # fmt: skip


def _sign(own: Sequence[Mapping[str, Any]]) -> Sign | None:
    """Gather what tells whether a line-up's defence acted; None where nothing does."""
    if not own or not own[0].get("signal"):
        return None
    inert = [row.get("inert") for row in own]
    verdict = "acted"
    if any(inert):
        verdict = "inert"
    elif None in inert:
        verdict = f"undecided: {own[0].get('undecided') or 'not measured'}"
    return Sign(
        signal=str(own[0]["signal"]),
        moves=str(own[0].get("moves") or "up"),
        values={int(row["seed"]): row.get("measured") for row in own},
        beside={int(row["seed"]): row.get("beside") for row in own},
        verdict=verdict,
    )
