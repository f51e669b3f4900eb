"""Commands on whole studies: plan, run, report, rescore, demo, gc."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast import __version__
from holdfast.cli.device import Device
from holdfast.errors import ConfigError, DataError, HoldfastError, InvalidResultsError, StoreError

if TYPE_CHECKING:
    from holdfast.engine.store import Store
    from holdfast.study.plan import Plan

STATE = "study.json"
"""In the report's folder: which plan the report there was made from."""

StudyFile = Annotated[Path, typer.Argument(help="The study file (YAML).")]
StoreFolder = Annotated[Path, typer.Option("--store", help="Where finished steps are kept.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="The report's folder. [default: STORE/NAME]")
]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Processes. [default: 2, or the cores if fewer]")
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Arithmetic threads of each.")]
ShowText = Annotated[
    bool, typer.Option("--show-text", help="Do not mask restricted text in the report.")
]
KeepWeights = Annotated[
    bool,
    typer.Option("--keep-weights", help="Keep attacked checkpoints (not LoRA's) in the store."),
]


def plan(study: StudyFile, store: StoreFolder = Path("runs"), device: Device = "cpu") -> None:
    """Say what a study would do, what is there already and what is left. Runs nothing."""
    from holdfast.engine.fit import check_fit
    from holdfast.engine.store import Store
    from holdfast.engine.work import left
    from holdfast.study.file import load_study
    from holdfast.study.plan import Plan

    made = Plan(load_study(study))
    work = left(made, Store(store))
    said = made.study
    typer.echo(
        f"study {said.name}: {len(said.lineups)} line-ups x {len(said.seeds)} seeds x "
        f"{sum(map(len, made.attacks.values()))} attacks = {work.cells} trajectories, "
        f"{sum(len(track.points) for track in made.tracks)} cells, "
        f"{len(made.prompts)} prompt sets ({sum(len(p.rows) for p in made.prompts)} prompts)"
    )
    typer.echo(f"{'step':<10}{'all':>8}{'there':>8}{'to do':>8}")
    for kind, (total, todo) in work.counts.items():
        typer.echo(f"{kind:<10}{total:>8}{total - todo:>8}{todo:>8}")
    if work.nothing:
        typer.echo("nothing to do")
        return
    typer.echo(
        f"to do: at most {work.steps:,} optimiser steps, {work.generations:,} answers, "
        f"{work.choices:,} choices, {work.verdicts:,} verdicts"
    )
    check_fit(made, Store(store), device=device)  # last: what does not fit here may fit elsewhere


def run(
    study: StudyFile,
    store: StoreFolder = Path("runs"),
    out: Out = None,
    workers: Workers = None,
    threads: Threads = 1,
    device: Device = "cpu",
    keep_weights: KeepWeights = False,
    show_text: ShowText = False,
) -> int:
    """Run a study and write its report; the same command again continues or does nothing."""
    from holdfast.study.file import load_study

    return conduct(
        load_study(study),
        store,
        out,
        show_text=show_text,
        workers=workers,
        threads=threads,
        device=device,
        keep_weights=keep_weights,
    )


def report(
    study: Annotated[
        Path, typer.Argument(help="The study file, or a folder with a study's tables.")
    ],
    store: StoreFolder = Path("runs"),
    out: Out = None,
    show_text: ShowText = False,
) -> int:
    """Write a finished study's report again, from the store or from its tables alone."""
    if study.is_dir():
        return _report_tables(study, store, out, show_text)
    if study.suffix == ".parquet":
        raise ConfigError(str(study), "is a table", f"give its folder, {study.parent}")
    from holdfast.engine import tables
    from holdfast.engine.store import Store
    from holdfast.study.file import load_study
    from holdfast.study.plan import Plan

    made, kept = Plan(load_study(study)), Store(store)
    tables.check_whole(made, kept)
    with kept.held():
        return finish(made, kept, out or store / made.study.name, show_text, again=True)


def _report_tables(folder: Path, store: Path, out: Path | None, show_text: bool) -> int:
    """Write the report that tables tell, however long ago and wherever they were made."""
    from holdfast.disk import writing
    from holdfast.engine import tables
    from holdfast.report import answer
    from holdfast.report.files import write_findings
    from holdfast.report.saved import Saved

    saved = Saved.read(folder)
    own = store / saved.meta["name"]
    if out is None and (own / STATE).exists() and own.resolve() != folder.resolve():
        what = f"{own} holds a run of the study of that name"
        raise ConfigError(str(folder), what, "name another folder with --out")
    out = out or own
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / STATE).unlink(missing_ok=True)  # a run of the study itself writes all of it again
    found = write_findings(saved.tables(), out, show_text=show_text)
    typer.echo(f"report: {out / 'report.html'}")
    for sentence in answer.short(found):
        typer.echo(sentence)
    return _code(tables.invalid(saved.outcomes.to_pylist()))


def gate(
    folder: Annotated[Path, typer.Argument(help="The folder of a report (with verdict.json).")],
    min_examples: Annotated[
        float, typer.Option("--min-examples", help="Examples fine-tuning must at least take.")
    ],
    min_utility: Annotated[
        float,
        typer.Option(
            "--min-utility",
            help="Share of the undefended model's benign utility to be kept, between 0 and 1.",
        ),
    ],
    free: Annotated[
        str,
        typer.Option(
            "--free", help="What being opened without training counts as: fail, or report only."
        ),
    ] = "fail",
    lineup: Annotated[
        str | None,
        typer.Option("--lineup", help="One line-up. [default: all but the undefended one]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Hold a study's verdict to bounds: exit code 0 pass, 4 fail, 5 cannot tell, 3 invalid."""
    from holdfast.report import verdict

    if free not in ("fail", "report"):
        raise ConfigError("--free", f"got '{free}'", "write fail or report")
    found = verdict.read(folder)
    gates = verdict.gate(
        found,
        min_examples=min_examples,
        min_utility=min_utility,
        free_fails=free == "fail",
        lineup=lineup,
    )
    code = verdict.overall(gates)
    if as_json:
        told = [
            {"lineup": g.lineup, "gate": verdict.WORDS[g.passed], "reasons": list(g.reasons)}
            for g in gates
        ]
        said = {"gate": verdict.WORDS[code], "threshold": found["study"]["threshold"]}
        typer.echo(json.dumps(said | {"lineups": told}, indent=1))
        return int(code)
    for one in gates:
        typer.echo(f"{one.lineup}: {verdict.WORDS[one.passed]}")
        for reason in one.reasons:
            typer.echo(f"  {reason}")
    share = 100 * found["study"]["threshold"]
    typer.echo(f"broken means: more than {share:g} % of restricted requests get a useful answer")
    typer.echo(f"gate: {verdict.WORDS[code]}")
    return int(code)


def rescore(
    study: StudyFile,
    judge: Annotated[
        list[str],
        typer.Option("--judge", help="A judge, as in a study file; repeat. The first leads."),
    ],
    store: StoreFolder = Path("runs"),
    out: Out = None,
    show_text: ShowText = False,
) -> int:
    """Have other judges read the answers that are there, and write a report of theirs."""
    from holdfast.api.fields import parse_yaml
    from holdfast.api.registry import make
    from holdfast.study.file import load_study

    given = tuple(parse_yaml(text, "--judge") for text in judge)
    names = [make("judge", one, "--judge").name() for one in given]
    changed = load_study(study).with_(judges=given)
    return conduct(
        changed,
        store,
        out or store / f"{changed.name}-{'-'.join(names)}",
        show_text=show_text,
        workers=1,
        only_judge=True,
    )


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of store and report.")] = Path(
        "holdfast-demo"
    ),
    workers: Workers = None,
    show_text: ShowText = False,
) -> int:
    """Run the packaged study on the offline world: no network, GPU or token."""
    from holdfast.study.file import load_study

    said = load_study(Path(__file__).parent.parent / "studies" / "world" / "demo.yaml")
    return conduct(said, out / "store", out, show_text=show_text, workers=workers)


def gc(
    studies: Annotated[list[Path], typer.Argument(help="The study files whose steps are kept.")],
    store: StoreFolder = Path("runs"),
    delete: Annotated[bool, typer.Option("--delete", help="Really remove them.")] = False,
) -> None:
    """Name what no given study needs any more; with --delete, remove it."""
    from holdfast.engine.store import Store
    from holdfast.study.file import load_study
    from holdfast.study.plan import Plan

    needed: dict[str, set[str]] = {}
    for path in studies:
        for kind, keys in Plan(load_study(path)).needed.items():
            needed.setdefault(kind, set()).update(keys)
    if not store.is_dir():
        raise ConfigError(str(store), "no such store", "name it with --store")
    kept = Store(store)
    with kept.held():
        found = kept.unneeded(needed)
        size = 0
        for path in found:
            size += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            typer.echo(f"{path.parent.name}/{path.name[:16]}")
            if delete:
                shutil.rmtree(path)
    what = "removed" if delete else "not needed (nothing removed: add --delete)"
    typer.echo(f"{len(found)} artefacts, {size / 2**20:.1f} MiB {what}")


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "plan": plan,
    "run": run,
    "report": report,
    "gate": gate,
    "rescore": rescore,
    "gc": gc,
}


def conduct(
    said: Any,
    store: Path,
    out: Path | None,
    *,
    show_text: bool = False,
    workers: int | None = None,
    threads: int = 1,
    device: str = "cpu",
    keep_weights: bool = False,
    only_judge: bool = False,
) -> int:
    """Plan a study, do what is left, write the report if it is new; give the exit code."""
    from holdfast.cli.progress import display
    from holdfast.engine import local, tables
    from holdfast.engine.fit import check_fit
    from holdfast.engine.store import Store
    from holdfast.study.plan import Plan

    if workers is not None and workers < 1:
        raise ConfigError("--workers", f"got {workers}", "give at least 1")
    began = time.monotonic()
    made, kept = Plan(said), Store(store)
    workers = workers or min(2, os.cpu_count() or 1)
    planned = time.monotonic()
    show = display()
    with kept.held():
        try:
            if not only_judge:
                check_fit(made, kept, device=device, workers=workers)
            done = local.run(
                made,
                kept,
                workers=workers,
                threads=threads,
                device=device,
                keep_weights=keep_weights,
                only_judge=only_judge,
                show=show,
            )
        finally:
            show.close()
        folder = out or store / said.name
        if done.failures:
            first, *others = done.failures
            for error in others[:4]:
                typer.echo(f"also: {error}", err=True)
            if len(others) > 4:
                typer.echo(f"and {len(others) - 4} more failures", err=True)
            if done.held_up:
                typer.echo(f"{done.held_up} more steps could not start", err=True)
            if any(isinstance(error, StoreError) for error in done.failures):
                raise HoldfastError(first.where, first.what, first.todo)
            told = _in_spite_of(made, kept, folder, show_text, done.failures)
            # Whatever its class: the input was fine as far as a plan can tell, and a step failed.
            raise HoldfastError(first.where, first.what, f"{first.todo}{told}")
        if only_judge:
            tables.check_whole(made, kept)
        after = time.monotonic()
        try:
            return finish(made, kept, folder, show_text, did=done.finished)
        finally:
            if done.finished:
                typer.echo(
                    f"planned in {planned - began:.1f} s, {done.finished} steps in "
                    f"{done.seconds:.1f} s, tables and report in {time.monotonic() - after:.1f} s",
                    err=True,
                )


def _in_spite_of(
    made: Plan, kept: Store, out: Path, show_text: bool, failures: Sequence[HoldfastError]
) -> str:
    """Report what there is though steps failed; say where, or nothing where there is too little."""
    try:
        _write(made, kept, out, show_text, "", failures)
    except DataError:  # not one restricted prompt was answered and judged
        with contextlib.suppress(OSError):
            out.rmdir()  # only where nothing else is in it
        return ""
    return f"; the rest is in {out / 'report.html'}, which names what is missing"


def finish(
    made: Plan,
    kept: Store,
    out: Path,
    show_text: bool,
    *,
    again: bool = False,
    did: int = 0,
) -> int:
    """Write tables and report unless they are there; give 0, or 3 when cells are invalid."""
    from holdfast.study.keys import digest

    page = out / "report.html"
    said = made.study.model_dump(mode="json")
    state = digest([made.fingerprint, said, __version__, show_text])
    found = _state(out / STATE)
    if not again and found.get("state") == state and page.is_file():
        typer.echo(f"nothing to do: the report is at {page}" if not did else f"report: {page}")
    else:
        found = _write(made, kept, out, show_text, state)
        typer.echo(f"report: {page}")
    for sentence in found["short"]:
        typer.echo(sentence)
    return _code(found["invalid"])


def _code(invalid: list[str]) -> int:
    """Give 0; raise what exits with 3 where cells are invalid."""
    if invalid:
        first, *others = invalid
        more = f" (and {len(others)} more cells)" if others else ""
        raise InvalidResultsError("results", f"{first}{more}", "they may not rank; see the report")
    return 0


def _state(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write(
    made: Plan,
    kept: Store,
    out: Path,
    show_text: bool,
    state: str,
    failures: Sequence[HoldfastError] = (),
) -> dict[str, Any]:
    """Write everything into a temporary folder, then move it into `out` file by file."""
    from holdfast.disk import rename, writing
    from holdfast.engine import states, tables
    from holdfast.engine.store import write_json
    from holdfast.report import answer, inside
    from holdfast.report.files import CARDS, write_findings
    from holdfast.stats import rows as columns

    outcomes, lineups = tables.outcomes(made, kept), tables.lineups(made, kept)
    found = {"state": state, "fingerprint": made.fingerprint, "invalid": tables.invalid(outcomes)}
    temporary = out / f".tmp-{os.getpid()}"
    try:
        with writing(out):
            for stale in out.glob(".tmp-*"):
                shutil.rmtree(stale, ignore_errors=True)
            temporary.mkdir(parents=True)
        table = columns.Outcomes(outcomes)
        # One row a prompt: a hundred times the size as text, so as Parquet alone.
        stem = temporary / "outcomes"
        columns.write_table(outcomes, columns.OUTCOME_COLUMNS, stem, text=False)
        columns.write_table(columns.cells(table), columns.CELL_COLUMNS, temporary / "rows")
        columns.write_table(lineups, columns.LINEUP_COLUMNS, temporary / "lineups")
        looks = {}
        if made.looking is not None:
            looks["analysis"] = states.table(made, kept)
            looks["scatter"] = states.scatter(made, kept)
            columns.write_table(looks["analysis"], inside.COLUMNS, temporary / "analysis")
            columns.write_table(looks["scatter"], inside.SCATTER_COLUMNS, temporary / "scatter")
        about = tables.meta(made, kept, failures)
        given = {"outcomes": table, "lineups": lineups, "meta": about, **looks}
        found["short"] = answer.short(write_findings(given, temporary, show_text=show_text))
        with writing(out):
            write_json(temporary / "meta.json", about)
            (out / STATE).unlink(missing_ok=True)
            shutil.rmtree(out / CARDS, ignore_errors=True)
            for path in sorted(temporary.iterdir()):
                rename(path, out / path.name)
            write_json(temporary / STATE, found)
            rename(temporary / STATE, out / STATE)
            temporary.rmdir()
    except HoldfastError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise type(error)(
            error.where.replace(str(temporary), str(out)), error.what, error.todo
        ) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return found
