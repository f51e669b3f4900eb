"""Parts of one seed each, joined: what all seeds decide together is as in the one run."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pytest

from holdfast.errors import ConfigError
from holdfast.report.joining import joined
from holdfast.report.saved import Saved
from holdfast.stats.inert import FEW

WORLD = Path(__file__).parents[2] / "studies" / "world" / "rows"


def apart(whole: Saved) -> dict[str, Saved]:
    """Give a part for each seed, as a run of that seed alone writes it."""
    parts = {}
    for seed in whole.meta["seeds"]:
        outcomes, lineups = (
            table.filter(pc.equal(table["seed"], seed)) for table in (whole.outcomes, whole.lineups)
        )
        rows = [
            row | ({"inert": None, "undecided": FEW} if row.get("signal") else {})
            for row in lineups.to_pylist()
        ]
        meta = dict(whole.meta) | {"seeds": [seed]}
        if "provider" in meta:
            risks = [one for one in meta["provider"]["risks"] if one["seed"] == seed]
            meta["provider"] = dict(meta["provider"]) | {"risks": risks}
        hosted = whole.provider
        parts[f"part-{seed}"] = Saved(
            outcomes=outcomes,
            lineups=type(lineups).from_pylist(rows, schema=lineups.schema),
            meta=meta,
            analysis=None,
            scatter=None,
            provider=None if hosted is None else hosted.filter(pc.equal(hosted["seed"], seed)),
        )
    return parts


@pytest.mark.parametrize("name", ["alignment_eight", "provider_eight"])
def test_all_seeds_decide_as_in_one_run(name: str) -> None:
    whole = Saved.read(WORLD / name)
    made = joined(apart(whole))

    def lines(table: object) -> list[str]:
        return sorted(json.dumps(row, sort_keys=True) for row in table.to_pylist())  # type: ignore[attr-defined]

    assert lines(made.lineups) == lines(whole.lineups)
    decided = {row["inert"] for row in made.lineups.to_pylist() if row["signal"]}
    assert decided == ({True, False} if name == "alignment_eight" else set())
    assert made.outcomes.num_rows == whole.outcomes.num_rows
    for key in ("seeds", "provider", "provenance", "flags", "not_tested", "holes"):
        ours, theirs = made.meta.get(key), whole.meta.get(key)
        if key == "provider" and ours:
            for one in (ours, theirs):
                one["risks"].sort(key=lambda risk: json.dumps(risk, sort_keys=True))
        assert (ours or None) == (theirs or None), key


def test_a_study_whose_gains_are_of_all_seeds_is_refused() -> None:
    parts = apart(Saved.read(WORLD / "provider_eight"))
    name, part = next(iter(parts.items()))
    meta = dict(part.meta) | {"tuning": {"gains": [{}]}}
    parts[name] = Saved(**{**part.__dict__, "meta": meta})
    with pytest.raises(ConfigError) as caught:
        joined(parts)
    assert str(caught.value) == (
        "part-0: is of a study that taught an honest skill, whose gains are counted over all "
        "seeds; run all seeds in one place"
    )


def test_what_hosts_did_must_be_of_one_study() -> None:
    parts = apart(Saved.read(WORLD / "provider_eight"))
    first, second = list(parts)[:2]
    other = dict(parts[second].meta)
    other["provider"] = dict(other["provider"]) | {"draws": 3}
    parts[second] = Saved(**{**parts[second].__dict__, "meta": other})
    with pytest.raises(ConfigError) as caught:
        joined({first: parts[first], second: parts[second]})
    assert str(caught.value) == (
        "part-1: is of another study than part-0: 'provider' differs; join what one study file "
        "made, each part with other --seeds"
    )
