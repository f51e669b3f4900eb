"""`holdfast generate`: answer prompts with a checkpoint, a server or an engine of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast import disk
from holdfast.cli.device import Device
from holdfast.cli.engines import Asked, Checkpoint, Engine, Outside, Server, endpoint, prompt_lines
from holdfast.cli.exchanges import prompts as prompts_of
from holdfast.cli.folders import try_writing, whole_file
from holdfast.cli.given import columns, fields, format_given, rows_given
from holdfast.cli.kept import Kept
from holdfast.cli.options import (
    Columns,
    Date,
    Model,
    Seed,
    Sets,
    Sources,
    System,
    Threads,
    Variables,
)
from holdfast.cli.progress import Training
from holdfast.cli.saying import say
from holdfast.data.format import DATE
from holdfast.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from holdfast.data.example import Example
    from holdfast.data.pool import Pool
    from holdfast.evaluate.completion import Completion


Form = Annotated[
    str | None,
    typer.Option("--format", help="plain, chat, or a .jinja file; none with --endpoint."),
]
OutFile = Annotated[Path | None, typer.Option("--out", help="The file of answers, as JSON lines.")]
PromptsGiven = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        help="An evaluation set, or a file of prompts: .jsonl, .json, .csv, .tsv or .parquet. "
        "[default: the sources' first set of restricted prompts]",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="Ask an OpenAI-compatible server, such as http://127.0.0.1:8000/v1; --model is "
        "then its model's name, and --set endpoint.NAME=VALUE a field of the server.",
    ),
]
PromptsOut = Annotated[
    Path | None,
    typer.Option("--prompts-out", help="Write the prompts for an engine of your own, and end."),
]
Answers = Annotated[Path | None, typer.Option("--answers", help="That engine's answers, by uid.")]


def generate(
    model: Model,
    form: Form = None,
    out: OutFile = None,
    prompts: PromptsGiven = None,
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
    url: Url = None,
    prompts_out: PromptsOut = None,
    answers: Answers = None,
) -> None:
    """Answer prompts with a checkpoint or a server. Writes JSON lines.

    --set changes the sampler: max_new_tokens, temperature (0 is greedy), top_p, draws (answers to
    each prompt), stop (a list of texts that end an answer), batch and batching. Finished answers
    are kept: the same command goes on where it was stopped.
    """
    from holdfast.api.fields import decode
    from holdfast.evaluate.sampler import Sampler

    where = prompts_out or out
    if where is None:
        raise ConfigError("--out", "is required", "name the file of answers")
    reads = Path(prompts) if prompts is not None else None
    try_writing(where, "--out" if prompts_out is None else "--prompts-out", reads)
    given = fields(sets)
    server = given.pop("endpoint", None)
    sampler = decode(Sampler, given, "generate")
    _together(form, url, answers, prompts_out, server)
    if url is not None:
        _of_a_template(date != DATE, "--date")
        _of_a_template(bool(template_var), "--template-var")
    rows = _rows(prompts, column, side, n, source, model)
    engine: Engine
    if url is not None:
        engine = Server(endpoint(url, model, server), system)
    elif answers is not None:
        engine = Outside(model, answers)
    else:
        made = format_given(form or "", True, system, date, template_var)
        engine = Checkpoint(
            model,
            made,
            rows,
            sampler,
            yields="max_new_tokens" not in given,
            threads=threads,
            device=device,
        )
        if engine.sampler != sampler:
            sampler = engine.sampler
            say(f"max_new_tokens is {sampler.max_new_tokens}: the model's context has no "
                       "room for more behind the longest prompt", err=True)  # fmt: skip
        if prompts_out is not None:
            lines = prompt_lines(engine.coder, Asked(rows, sampler, seed))
            whole_file(prompts_out, lines)
            say(f"{len(lines)} prompts: {prompts_out}")
            return
    _answer(engine, Asked(rows, sampler, seed), where)


def _together(
    form: str | None,
    url: str | None,
    answers: Path | None,
    prompts_out: Path | None,
    server: object,
) -> None:
    """Refuse options that cannot go together.

    Raises:
        ConfigError: in one line, which.
    """
    outside = url is not None or answers is not None
    if form is None and not outside:
        raise ConfigError("--format", "is required", "write plain, chat or a .jinja file")
    if url is not None and form is not None:
        raise ConfigError("--format", "a server has its own template", "leave it out")
    if url is None and server is not None:
        raise ConfigError("--set endpoint", "there is no server", "name it: --endpoint URL")
    if sum(one is not None for one in (url, answers, prompts_out)) > 1:
        raise ConfigError(
            "--endpoint, --answers, --prompts-out", "two are given", "give one at a time"
        )


def _of_a_template(given: bool, option: str) -> None:
    """Refuse an option that fills a template where the server fills its own."""
    if given:
        raise ConfigError(
            option, "a server has its own template", "leave it out, or use --set endpoint.extra"
        )


def _answer(engine: Engine, asked: Asked, out: Path) -> None:
    """Have prompts answered, keeping each answer, and write them all when they are there."""
    sampler, total = asked.sampler, len(asked.rows) * asked.sampler.draws
    names = [name for name in type(sampler).model_fields if name not in engine.unused]
    shown = {name: getattr(sampler, name) for name in names}
    say("sampler: " + ", ".join(f"{name} {json.dumps(v)}" for name, v in shown.items()))
    command = {
        **engine.command(),
        "sampler": sampler.key_fields(),
        "seed": asked.seed if sampler.temperature > 0 else 0,
        "prompts": [row.uid for row in asked.rows],
    }
    with Kept(out, command) as kept:
        if kept.found:
            say(f"{len(kept.found)} of {total} answers are there already")
        show = Training()
        try:
            if len(kept.found) < total:
                for place, one in engine.answers(asked, kept.found):
                    kept.add(place, one)
                    show("answers", len(kept.found), total)
        except KeyboardInterrupt:
            say(f"{len(kept.found)} of {total} answers are kept in {kept.path}", err=True)
            raise
        _write(engine, asked, kept.found, shown, out)
        kept.clear()


def _write(
    engine: Engine,
    asked: Asked,
    found: Mapping[int, Completion],
    shown: Mapping[str, Any],
    out: Path,
) -> None:
    """Write the answers, and beside them how they were made; say what a reader must know."""
    many = asked.sampler.draws
    written = [
        _line(asked.rows[place // many], found[place])
        | ({"draw": place % many} if many > 1 else {})
        for place in range(len(asked.rows) * many)
    ]
    cut = sum(line["finish_reason"] == "length" for line in written)
    stuck = sum("degenerate" in line for line in written)
    about = {
        **engine.record(),
        "sampler": dict(shown),
        "seed": asked.seed,
        "answers": len(written),
        "cut": cut,
        "degenerate": stuck,
    }
    with disk.whole_file(out.with_name(f"{out.name}.json")) as part:
        part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    whole_file(out, written)
    say(f"{len(written)} answers: {out}")
    if cut:
        say(f"{cut} are cut at {asked.sampler.max_new_tokens} tokens")
    if stuck:
        say(f"{stuck} are degenerate: empty, or stuck in a loop")


def _line(row: Example, answer: Completion) -> dict[str, Any]:
    return {
        "uid": row.uid,
        "system": row.system,
        "prompt": row.prompt,
        **answer.fields(),
        "meta": dict(row.meta),
        **({"turns": _messages(row)} if row.turns else {}),
    }


def _messages(row: Example) -> list[dict[str, str]]:
    return [{"role": who, "content": said} for who, said in row.turns]


def _rows(
    prompts: str | None,
    column: list[str] | None,
    side: str,
    n: int | None,
    source: list[str] | None,
    model: str,
) -> Sequence[Example]:
    """Give the prompts of a file, or of one side of an evaluation set."""
    from holdfast.data.example import Side
    from holdfast.data.records import ENDINGS, is_rows

    if prompts is not None and is_rows(prompts):
        return prompts_of(prompts, columns(column, "harmful"))
    if side not in set(Side):
        raise ConfigError("--side", f"no side '{side}'", did_you_mean(side, list(Side)))
    if not source and not model.startswith("world:"):
        if prompts is None:
            raise ConfigError("--prompts", "is required", "name a file, or a set and its --source")
        todo = f"name a file ({', '.join(ENDINGS)}), or give the --source of a set of that name"
        raise ConfigError("--prompts", f"'{prompts}' is no file of rows", todo)
    pool, _ = rows_given(None, None, source, model, None)
    return pool.evaluation(prompts or _restricted(pool), Side(side), n, 0)


def _restricted(pool: Pool) -> str:
    """Name the first set of restricted prompts that the sources declare."""
    from holdfast.api import EvalPurpose

    names = [one.name for one in pool.sets.values() if one.purpose is EvalPurpose.HARM]
    if not names:
        raise ConfigError("--prompts", "the sources declare no restricted prompts", "name a set")
    return names[0]
