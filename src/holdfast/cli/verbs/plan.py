"""`holdfast plan`: say what a study would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.device import Device
from holdfast.cli.given import study_given
from holdfast.cli.options import Seeds, StoreFolder, StudyFile
from holdfast.cli.saying import say
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.study.file import Study


def plan(
    study: StudyFile,
    store: StoreFolder = Path("runs"),
    device: Device = "cpu",
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate",
            help="Say what is left costs: time, memory, judges, disk. Needs no network, and no "
            "model or data set on this machine.",
        ),
    ] = False,
    card: Annotated[
        str | None,
        typer.Option(
            help="With --estimate: cpu, 80gb or 141gb; without it, cpu for models below a billion "
            "weights, else 141gb."
        ),
    ] = None,
    efficiency: Annotated[
        float | None,
        typer.Option(help="With --estimate: the share of the device's peak that is reached."),
    ] = None,
    seeds: Seeds = None,
) -> None:
    """Say what a study would do, what is there already and what is left. Runs nothing."""
    if estimate:
        from holdfast.cli.estimating import show

        show(study_given(study, seeds), store, card, efficiency)
        return
    if card is not None or efficiency is not None:
        raise ConfigError(
            "--card" if card is not None else "--efficiency",
            "belongs to an estimate",
            "add --estimate",
        )
    _say(study_given(study, seeds), store, device)


def _say(study: Study, store: Path, device: str) -> None:
    """Plan a study and say what it would do."""
    from holdfast.engine import leakage
    from holdfast.engine.fit import check_fit
    from holdfast.engine.store import Store
    from holdfast.engine.work import left
    from holdfast.study.checks import doubted
    from holdfast.study.formats import flags
    from holdfast.study.hosting import shared_critics
    from holdfast.study.plan import Plan
    from holdfast.study.runnable import unshown

    made = Plan(study)
    work = left(made, Store(store))
    said = study
    say(
        f"study {said.name}: {len(said.lineups)} line-ups x {len(said.seeds)} seeds x "
        f"{sum(map(len, made.attacks.values()))} attacks = {work.cells} trajectories, "
        f"{sum(len(track.points) for track in made.tracks)} cells, "
        f"{len(made.prompts)} prompt sets ({sum(len(p.rows) for p in made.prompts)} prompts)"
    )
    if made.hosting is not None:
        names = [
            len({getattr(t, of) for t in made.hosted}) for of in ("lineup", "attacker", "variant")
        ]
        say(
            f"tune: {names[0]} line-ups, {names[1]} jobs, {names[2]} defences = "
            f"{len(made.hosted)} trajectories"
        )
    for source in made.sources:
        if told := source.origin():
            say(f"source {source.name()}: {told}")
    found = leakage.leakage(made, Store(store))
    say(leakage.said(found))
    leakage.check(made, found)
    say(f"{'step':<10}{'all':>8}{'there':>8}{'to do':>8}")
    for kind, (total, todo) in work.counts.items():
        say(f"{kind:<10}{total:>8}{total - todo:>8}{todo:>8}")
    critics = shared_critics(made.hosting, made.judges)
    starts = made.starts.values()
    for flag in (*doubted(starts), *flags(starts), *unshown(said, made.prompts), *critics):
        say(f"warning: {flag}", err=True)
    if work.nothing:
        say("nothing to do")
        return
    say(
        f"to do: at most {work.steps:,} optimiser steps, {work.generations:,} answers, "
        f"{work.choices:,} choices, {work.verdicts:,} verdicts"
    )
    check_fit(made, Store(store), device=device)  # last: what does not fit here may fit elsewhere
