"""`holdfast generate`: answer prompts with a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import preflight
from holdfast.cli.device import Device
from holdfast.cli.exchanges import prompts as prompts_of
from holdfast.cli.folders import whole_file
from holdfast.cli.given import columns, fields, format_given, models, rows_given
from holdfast.cli.options import (
    Columns,
    Date,
    Format,
    Model,
    Out,
    Seed,
    Sets,
    Sources,
    System,
    Threads,
    Variables,
)
from holdfast.data.format import DATE
from holdfast.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from holdfast.data.example import Example
    from holdfast.data.pool import Pool


def generate(
    model: Model,
    form: Format,
    out: Out,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            help="An evaluation set, or a file of prompts: .jsonl, .json, .csv, .tsv or .parquet. "
            "[default: the sources' first set of restricted prompts]",
        ),
    ] = None,
    column: Columns = None,
    side: Annotated[str, typer.Option("--side", help="Whose rows of the set.")] = "evaluator",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Groups; all without it.")] = None,
    sets: Sets = None,
    source: Sources = None,
    system: System = None,
    date: Date = DATE,
    template_var: Variables = None,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Answer prompts with a checkpoint; --set changes the sampler. Writes JSON lines."""
    from holdfast.api.fields import decode
    from holdfast.evaluate.sampler import Sampler

    sampler = decode(Sampler, fields(sets), "generate")
    asked = format_given(form, True, system, date, template_var)
    files, _ = models(model, None, form)
    rows = _asked(prompts, column, side, n, source, model)
    coder = preflight.encoder(files, asked, answer=sampler.max_new_tokens, where="--prompts")
    preflight.warn(files, asked)
    bare = [replace(row, response=None) for row in rows]
    preflight.check(files, coder, {"asked": bare}, None, device=device)

    from holdfast import evaluate, nn
    from holdfast.api import set_threads

    set_threads(threads)
    loaded, _ = nn.load(files, device=device)
    answers = evaluate.generate(loaded, coder, rows, sampler, seed=seed)
    written = [
        {
            "uid": row.uid,
            "system": row.system,
            "prompt": row.prompt,
            "response": answer.text,
            "finish_reason": answer.finish_reason,
            "meta": dict(row.meta),
            **({"turns": _messages(row)} if row.turns else {}),
        }
        for row, answer in zip(rows, answers, strict=True)
    ]
    whole_file(out, written)
    typer.echo(f"{len(written)} answers: {out}")


def _messages(row: Example) -> list[dict[str, str]]:
    return [{"role": who, "content": said} for who, said in row.turns]


def _asked(
    prompts: str | None,
    column: list[str] | None,
    side: str,
    n: int | None,
    source: list[str] | None,
    model: str,
) -> Sequence[Example]:
    """Give the prompts of a file, or of one side of an evaluation set."""
    from holdfast.data.example import Side
    from holdfast.data.records import is_rows

    if prompts is not None and is_rows(prompts):
        return prompts_of(prompts, columns(column, "harmful"))
    if side not in set(Side):
        raise ConfigError("--side", f"no side '{side}'", did_you_mean(side, list(Side)))
    pool, _ = rows_given(None, None, source, model, None)
    return pool.evaluation(prompts or _restricted(pool), Side(side), n, 0)


def _restricted(pool: Pool) -> str:
    """Name the first set of restricted prompts that the sources declare."""
    from holdfast.api import EvalPurpose

    names = [one.name for one in pool.sets.values() if one.purpose is EvalPurpose.HARM]
    if not names:
        raise ConfigError("--prompts", "the sources declare no restricted prompts", "name a set")
    return names[0]
