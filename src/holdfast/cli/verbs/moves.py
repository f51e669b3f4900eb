"""`holdfast moves`: what an attack moves in the models of a finished study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.device import Device
from holdfast.cli.saying import say

if TYPE_CHECKING:
    from holdfast.evaluate import Moved


def moves(
    study: Annotated[Path, typer.Argument(help="The study file (YAML).")],
    lineups: Annotated[list[str], typer.Argument(metavar="LINE-UP...", help="Which line-ups.")],
    attacker: Annotated[
        str, typer.Option("--attacker", help="An attacker of the study that fine-tunes.")
    ] = "harmful_sft",
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Its choice, as tables name it. [default: the first]"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="The first so many seeds. [default: all]")
    ] = None,
    store: Annotated[
        Path, typer.Option("--store", help="Where the study's finished steps are kept.")
    ] = Path("runs"),
    threads: Annotated[int, typer.Option("--threads", min=1, help="Arithmetic threads.")] = 1,
    device: Device = "cpu",
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show what an attack moves, by examples seen: the refusal's margin, the weights, the states.

    Mean over seeds, on the defender's selection prompts. The margin is log p(the refusal's first
    token) - log p(the answer's), in nats; below 0 the model answers.
    """
    from holdfast.cli.progress import display
    from holdfast.engine.moves import watch, watched
    from holdfast.engine.store import Store
    from holdfast.report.markdown import Table, comma_separated, markdown
    from holdfast.study.file import load_study
    from holdfast.study.plan import Plan

    plan, kept, show = Plan(load_study(study)), Store(store), display()
    tracks = watched(plan, lineups, attacker, variant, seeds)
    found: dict[str, list[dict[float, Moved]]] = {}
    show.start(len(tracks))
    try:
        for track in tracks:
            label = f"watch {track.lineup}, seed {track.seed}"

            def step(part: str, done: int, total: int, label: str = label) -> None:
                show.step(0, label, part, done, total)

            seen = watch(plan, kept, track, threads=threads, device=device, progress=step)
            found.setdefault(track.lineup, []).append(seen)
            show.say(label)
    finally:
        show.close()
    budgets = list(next(iter(found.values()))[0])
    tables = []
    for kind, form in (("margin", ".1f"), ("weights", ".4f"), ("states", ".3f")):
        rows = [
            [name, *(f"{_mean([getattr(one[b], kind) for one in some]):{form}}" for b in budgets)]
            for name, some in found.items()
        ]
        tables.append(Table([kind, *(f"{b:g}" for b in budgets)], rows))
    say(comma_separated(tables, "moves") if csv else markdown(tables), nl=False)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
