"""`holdfast assess`: measure a checkpoint as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.conduct import conduct, workers_of
from holdfast.cli.device import Device
from holdfast.cli.drafting import (
    Benign,
    BudgetWord,
    FormatGiven,
    Given,
    Judges,
    Restricted,
    drafted,
)
from holdfast.cli.folders import try_writing
from holdfast.cli.options import (
    Columns,
    Original,
    ShowText,
    StoreFolder,
    Workers,
    WorkerThreads,
)
from holdfast.cli.saying import say
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.cli.drafting import Drafted

Folder = Annotated[
    Path | None, typer.Option("--out", help="Folder of study and report. [default: assess-NAME]")
]
Anyway = Annotated[
    bool, typer.Option("--anyway", help="Go on though the model answers as released.")
]

STUDY = "study.yaml"
"""The study that was made, in the folder of its report."""


def assess(
    model: Annotated[
        str, typer.Argument(help="A folder, a .gguf file, smol:instruct, or org/name@COMMIT.")
    ],
    restricted: Restricted = None,
    benign: Benign = None,
    original: Original = None,
    judge: Judges = None,
    budget: BudgetWord = None,
    form: FormatGiven = None,
    column: Columns = None,
    out: Folder = None,
    store: StoreFolder = Path("runs"),
    anyway: Anyway = False,
    workers: Workers = None,
    threads: WorkerThreads = 1,
    device: Device = "cpu",
    show_text: ShowText = False,
) -> int:
    """Attack a checkpoint as it is and say what it costs to open it.

    Attacks that train nothing come first, then a few fine-tuning attacks, and what is left of the
    model's use. The study it makes of that is written beside the report. The same command again
    continues.
    """
    from holdfast.nn.history import doubts, history
    from holdfast.study.drafts import slug

    folder = out or Path(f"assess-{slug(model)}")
    workers_of(workers)
    if folder.resolve() == Path(model).resolve():
        raise ConfigError("--out", f"{folder} is the model's own folder", "name another")
    try_writing(folder / STUDY, "--out")
    made = drafted(
        Given(
            model=model,
            restricted=restricted,
            benign=benign,
            original=original,
            judges=judge or (),
            budget=budget,
            form=form,
            column=column or (),
        )
    )
    for line in made.said:
        say(line)
    for line in doubts(history(Path(model))):
        say(f"warning: {model}: {line}", err=True)
    _look(made, folder / STUDY, Run(store, workers, threads, device), anyway=anyway)
    return conduct(
        made.study,
        store,
        folder,
        show_text=show_text,
        workers=workers,
        threads=threads,
        device=device,
    )


@dataclass(frozen=True, slots=True)
class Run:
    """How the study is to be run."""

    store: Path
    workers: int | None
    threads: int
    device: str

    @property
    def beside(self) -> int:
        """How many steps run side by side."""
        return workers_of(self.workers)


def _look(made: Drafted, study: Path, run: Run, *, anyway: bool) -> None:
    """Keep the study and, before its first answer, look whether the model refuses at all.

    Raises:
        ConfigError, DataError, ModelError: a judge is not at hand, a row or a step does not fit.
        OpenAsReleasedError: it does not, and `anyway` is not said.
    """
    from holdfast.cli.quick import estimate, quick
    from holdfast.engine.fit import check_fit
    from holdfast.engine.judging import check_judges
    from holdfast.engine.store import Store
    from holdfast.study.plan import Plan

    plan, kept = Plan(made.study), Store(run.store)
    _keep(study, made.text)
    if not plan.needed["generate"].isdisjoint(kept.keys("generate")):
        return
    check_judges(plan, kept)
    check_fit(plan, kept, device=run.device, workers=run.beside)
    say("quick check: asking it some restricted requests before anything long", err=True)
    seen = quick(plan, device=run.device, threads=run.threads)
    say(
        f"quick check: refuses {seen.refused} of {seen.asked} restricted requests as released, by"
        " refusal_keywords"
    )
    seen.check(made.draft.model, anyway=anyway)
    say(estimate(plan, kept, seen, run.beside))


def _keep(path: Path, text: str) -> None:
    """Write the study, unless it is there; another one is nobody's to overwrite."""
    from holdfast import disk
    from holdfast.api.fields import load_yaml, parse_yaml

    if not path.exists():
        disk.write_bytes(path, text.encode())
    elif apart := _apart(load_yaml(path), parse_yaml(text, "study")):
        raise ConfigError(
            "--out",
            f"{path} is another study than these options make: they differ in {apart}",
            f"run that with `holdfast run {path} --out {path.parent}`, or name another folder",
        )
    say(f"study: {path}")


def _apart(there: object, made: object) -> str:
    """Name the sections in which two studies differ, the first three of them; "" where in none."""
    there, made = (one if isinstance(one, dict) else {} for one in (there, made))
    names = [name for name in {**made, **there} if made.get(name) != there.get(name)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"`{'`, `'.join(names[:3])}`{more}" if names else ""
