"""What a log of trials shows: a table of each method's trials, its winner and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.report.markdown import Table
from holdfast.report.text import listed
from holdfast.stats.trials import Chosen, Result, Seen, by_attack, choose
from holdfast.study.rehearsal import Trial
from holdfast.study.trials import START, Rule, Trials

Lines = Mapping[tuple[int, int], Mapping[str, Any]]
"""A log's lines by the trial's place and seed."""


def results(trials: Sequence[Trial], seeds: Sequence[int], lines: Lines) -> list[Result]:
    """Give what each trial showed, the seeds together; one that misses a seed is left out."""
    found = []
    for place, trial in enumerate(trials):
        own = [lines[place, seed] for seed in seeds if (place, seed) in lines]
        if len(own) < len(seeds):
            continue
        failed = next((line["failed"] for line in own if "failed" in line), "")
        if failed:
            found.append(Result(trial.method, trial.number, failed=failed))
            continue
        found.append(
            Result(
                trial=trial.method,
                number=trial.number,
                harm=[line["harm"] for line in own],
                utility=[line["utility"] for line in own],
                steps=own[0]["steps"],
                flops=own[0]["flops"],
                curves=[
                    {label: [(b, h) for b, h in points] for label, points in line["curves"].items()}
                    for line in own
                ],
            )
        )
    return found


def winners(said: Trials, found: Sequence[Result]) -> dict[str, Chosen]:
    """Choose for every method; nothing where the start has not been measured yet."""
    start = [one for one in found if one.trial == START and not one.failed]
    if not start:
        return {}
    utility = sum(start[0].utility) / len(start[0].utility)
    return {
        name: choose([one for one in found if one.trial == name], utility, said.rule)
        for name in said.methods
    }


def tables(said: Trials, trials: Sequence[Trial], chosen: Mapping[str, Chosen]) -> list[Table]:
    """Give a table of each method's trials, then one of the attacks."""
    given = {(trial.method, trial.number): trial.given for trial in trials}
    heads = ["trial", "harm %", "utility %", "steps", "FLOPs", "holds", "in the mean", "", "fields"]
    found = []
    for name, one in chosen.items():
        rows = []
        for result, seen in one.trials:
            number = result.number
            if seen is None:
                last = [f"failed: {result.failed}", _flow(given[name, number])]
                rows.append([str(number), *["-"] * 6, *last])
                continue
            verdict = "**chosen**" if seen is one.winner else "" if seen.miss else "qualifies"
            if seen is one.winner and one.nearest:
                verdict = "nearest"
            rows.append(
                [
                    str(number), f"{100 * seen.harm:.1f}", f"{100 * seen.utility:.1f}",
                    f"{result.steps:g}", f"{result.flops:.2g}",
                    f"{2**seen.least:.1f}", f"{2**seen.mean:.1f}", verdict,
                    _flow(given[name, number]),
                ]
            )  # fmt: skip
        found.append(Table(heads, rows, f"{name}: {why(one, said.rule)}"))
    attacks = by_attack(list(chosen.values()), said.rule.broken)
    held = [[attack, f"{value:.2f}", f"{2**value:.1f}"] for attack, value in attacks.items()]
    title = "What the winners hold under each attack, in the mean: doublings, and examples"
    return [*found, Table(["attack", "doublings", "examples"], held, title)] if held else found


def why(one: Chosen, rule: Rule) -> str:
    """Say which trial is chosen, and by what."""
    failed = sum(seen is None for _, seen in one.trials)
    tried = f"{len(one.trials)} tried" + (f", {failed} failed" if failed else "")
    won = one.winner
    if won is None:
        return f"no winner; {tried}"
    place = f"trial {won.result.number}"
    if one.nearest:
        return (
            f"{tried}, none qualifies; {place} misses by least ({100 * won.miss:.1f} points of "
            "harm and utility together): show it as such"
        )
    chosen = (
        f"{tried}, {one.qualify} qualify; {place} holds {2**won.least:.1f} examples under its "
        f"worst attack, {won.worst}"
    )
    if not one.equal:
        return f"{chosen}: longest"
    others = listed([str(seen.result.number) for seen in one.equal])
    by = "the mean over the attacks" if rule.ties == "mean" else "utility"
    noun = "trial" if len(one.equal) == 1 else "trials"
    return f"{chosen}; {noun} {others} as long, so {by} decides"


def fields(trials: Sequence[Trial], won: Seen) -> str:
    """Give the winner's line-up as a study file has it."""
    (trial,) = [
        one for one in trials if (one.method, one.number) == (won.result.trial, won.result.number)
    ]
    return f"defences: {_flow(list(trial.defences))}"


def _flow(value: object) -> str:
    """Write plain data as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        plain = value.replace("_", "").isalnum() and value not in ("true", "false", "null")
        return value if plain and not value[0].isdigit() else json.dumps(value)
    if isinstance(value, float):
        return np.format_float_positional(value, trim="0")
    return json.dumps(value)
