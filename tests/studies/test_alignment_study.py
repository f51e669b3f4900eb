"""The study of all alignment-stage defences, cut to minutes: all of it really runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from ruamel.yaml import YAML

from holdfast.api.fields import lay_over, load_yaml
from holdfast.cli import run
from holdfast.study.file import load_study
from holdfast.study.plan import Plan

STEPS = 4
"""Steps of every loop."""
SHORT: dict[str, dict[str, Any]] = {
    "sgt": {"stage1": {"steps": STEPS}},
    "t_vaccine": {"measure_every": 2, "draw_every": 2, "loop": {"checkpoint_every": 2}},
    "tar": {"attack": {"steps": 4, "every": 2}},
}
"""What else a method needs to be short."""


def cut(said: dict[str, Any]) -> dict[str, Any]:
    """Shorten every loop, budget and prompt set, and leave out no line-up and no attack."""
    for lineup in said["lineups"].values():
        lineup["defences"] = [
            {name: shorter(name, fields) for name, fields in defence.items()}
            for defence in lineup.get("defences", [])
        ]
    said["attacks"] = {
        name: [briefer(choice) for choice in one_of_each(choices)]
        for name, choices in said["attacks"].items()
    }
    said["evaluation"] = [one | {"n": 2} for one in said["evaluation"]]
    said["analysis"] |= {"variant": None, "budgets": [2], "n": 4, "k": 2}
    return said | {"seeds": [0]}


def one_of_each(choices: list[Any]) -> list[Any]:
    """Keep the first choice of each kind: its batch, its adapter, rows used again; any rate."""
    kinds: dict[str, Any] = {}
    for choice in choices:
        fields = next(iter(choice.values())) if isinstance(choice, dict) else {}
        kind = [choice if not fields else None]
        loop = fields.get("loop", {})
        kind += [loop.get("batch"), loop.get("lora"), fields.get("distinct")]
        kinds.setdefault(str(kind), choice)
    return list(kinds.values())


FEW: dict[str, dict[str, Any]] = {
    "abliterate": {"forms": ["stream"], "layers": [0.5], "evaluate_at": [1.0], "n": 2},
    "undo_delta": {"evaluate_at": [1]},
    "prefill": {"openings": ["First,"], "words": []},
    "persona": {},
    "strip": {"evaluate_at": [1.0]},
}
"""One choice of each attack that trains nothing."""


def briefer(choice: Any) -> Any:
    """Cut an attack to one budget, a free one to one choice, a chain in its training alone."""
    if isinstance(choice, list):
        return [choice[0], briefer(choice[1])]
    ((name, fields),) = choice.items() if isinstance(choice, dict) else [(choice, {})]
    few = FEW.get(name, {"evaluate_at": [2]})
    if name == "adaptive_trigger":
        few = few | {"stage_a": fields["stage_a"] | {"steps": 2}}
    return {name: {**fields, **few}}


def shorter(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Cut a defence to `STEPS`; one without a loop stays as it is."""
    if name == "lox":
        return fields
    short = lay_over(fields, {"loop": {"steps": STEPS, "warmup": 1}})
    return lay_over(short, SHORT.get(name, {}))


@pytest.mark.slow
@pytest.mark.timeout(480)  # its own bar: under eight minutes
def test_every_lineup_is_hardened_attacked_judged_and_reported(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cut(load_yaml(root / "studies" / "world" / "alignment.yaml"))
    YAML(typ="safe", pure=True).dump(said, Path("smoke.yaml"))

    assert run(["run", "smoke.yaml", "--workers", "2"]) == 0
    folder = Path("runs/alignment")
    lineups = parquet.read_table(folder / "lineups.parquet").to_pylist()
    assert sorted(row["lineup"] for row in lineups) == sorted(said["lineups"])
    assert all(row["steps"] > 0 for row in lineups if row["defences"] != "none")
    outcomes = parquet.read_table(
        folder / "outcomes.parquet", columns=["lineup", "attack", "variant"]
    )
    attacks = Plan(load_study(Path("smoke.yaml"))).attacks
    assert set(attacks) == set(said["attacks"])
    seen = {(row["lineup"], row["attack"], row["variant"]) for row in outcomes.to_pylist()}
    assert len(seen) == sum(map(len, attacks.values())) * len(said["lineups"])
    looked = parquet.read_table(folder / "analysis.parquet", columns=["lineup"])
    assert set(looked["lineup"].to_pylist()) == set(said["analysis"]["lineups"])

    # The tables alone make the same page.
    assert run(["report", str(folder), "--out", "again"]) == 0
    assert Path("again/report.html").read_bytes() == (folder / "report.html").read_bytes()
