"""`holdfast defend`: harden a checkpoint of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import preflight
from holdfast.cli.device import Device
from holdfast.cli.folders import finished, try_making, whole_folder
from holdfast.cli.given import dtype_of, fields, format_given, models, rows_given
from holdfast.cli.options import (
    Columns,
    Data,
    Date,
    Dtype,
    Eos,
    Format,
    HeldOut,
    Model,
    Original,
    Out,
    Seed,
    Sets,
    Sources,
    System,
    Threads,
    Variables,
)
from holdfast.cli.progress import Training
from holdfast.cli.provenance import decides, provenance
from holdfast.cli.saying import say
from holdfast.data.example import Example, Role, Side
from holdfast.data.format import DATE, MARKER
from holdfast.errors import ConfigError, DataError, InvalidResultsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from holdfast.api import Defence
    from holdfast.data.pool import Pool
    from holdfast.train.training import Hardened


def defend(
    name: Annotated[str, typer.Argument(help="A defence; see `holdfast ls defence`.")],
    model: Model,
    form: Format,
    out: Out,
    sets: Sets = None,
    data: Data = None,
    column: Columns = None,
    source: Sources = None,
    original: Original = None,
    append_eos: Eos = True,
    system: System = None,
    date: Date = DATE,
    template_var: Variables = None,
    dtype: Dtype = "base",
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "cpu",
    held_out: HeldOut = None,
) -> None:
    """Harden a checkpoint with one defence, and say whether it acted.

    The same command again continues. Exit code 3 where the defence did not do its thing on the rows
    that were kept back: the checkpoint is there, and its card says so.
    """
    from holdfast import evaluate
    from holdfast.api import Trainable
    from holdfast.api.registry import make

    try_making(out)
    method: Any = make("defence", {name: fields(sets)}, "defend")
    asked = format_given(form, append_eos, system, date, template_var)
    files, public = models(model, original, form)
    held = dtype_of(files, dtype)
    if "original" in getattr(method, "needs", ()) and public is None:
        raise ConfigError(f"defend.{name}", "needs the public original", "give --original MODEL")
    pool, content = rows_given(data, column, source, model, "defender")
    pool = evaluate.keep_back(pool, method.roles, seed, held_out)
    # What is missing, too long or too large is found before any weight is loaded.
    rows = _drawn(method, pool, seed, plain=not source)
    _apart(rows)
    if doubt := evaluate.no_refusals(rows.get(Role.REFUSAL, ())):
        say(f"warning: {doubt}", err=True)
    coder = preflight.encoder(files, asked)
    asking = preflight.encoder(files, asked, answer=evaluate.WORDS)
    asked_of = [evaluate.held(pool, role) if held_out != 0 else () for role in evaluate.KEPT]
    asking.check(row for some in asked_of for row in some)
    loop, copies = (method.loop, method.copies()) if isinstance(method, Trainable) else (None, 0)
    apart = getattr(method, "separable", True)
    preflight.check(files, coder, rows, loop, copies=copies, device=device, separable=apart)

    from holdfast import nn, train
    from holdfast.api import set_threads
    from holdfast.nn.history import attacked, history
    from holdfast.study.keys import digest

    past = history(files.folder)
    if attacked(past):
        say("warning: --model: its weights were attacked; so this is marked too", err=True)
    set_threads(threads)
    about = decides(files, method, asked, seed, content, public) | {"held_out": held_out}
    if finished(out, run := digest(about)):
        still = json.loads((out / MARKER).read_text(encoding="utf-8")).get("held_out") or {}
        if still.get("fault"):
            raise InvalidResultsError(f"defend {name}", still["fault"], still["remedy"])
        return
    with whole_folder(out) as (temporary, work):
        train.claim(work, about, "--out")
        loaded, tokenizer = nn.load(files, device=device)
        base = nn.model_hash(loaded)
        shown = Training()
        before = evaluate.look(loaded, asking, *asked_of)
        done = train.harden(
            method,
            loaded,
            coder,
            pool,
            seed=seed,
            work=work,
            sources={"original": nn.tensors(public.folder)} if public else {},
            progress=shown,
        )
        shown("asking held-out prompts", 0, 0)
        seen = evaluate.acted(
            method, before, evaluate.look(done.model, asking, *asked_of), done.diagnostics
        )
        shown("saving", 0, 0)
        nn.save(done.model, tokenizer, temporary, dtype=held)
        marker = provenance(files, about, coder, threads, device, held, public) | {
            "base": base,
            "run": run,
            "defences": [method.identity()],
            "rows": {str(role): len(some) for role, some in rows.items()},
            "attacked": attacked(past),
            "held_out": seen.plain(),
        }
        describe(temporary, work, done, marker)
    for line in seen.lines():
        say(line)
    say(f"{done.steps} steps, {done.flops:.3g} FLOPs: {out}")
    if seen.fault:
        raise InvalidResultsError(f"defend {name}", seen.fault, seen.todo)


def _drawn(
    method: Defence, pool: Pool, seed: int, *, plain: bool
) -> Mapping[Role, Sequence[Example]]:
    """Draw a defence's rows; where files alone were given, say which file is missing."""
    draw = getattr(method, "rows", None)
    if draw is None:
        return {}
    try:
        return draw(method.sees(pool), seed)
    except DataError:
        for role in method.roles:
            if plain and not pool.has(Role(role), Side.DEFENDER):
                what = f"no rows of role {role}, which {method.name()} learns from"
                raise ConfigError("--data", what, f"add --data {role}=FILE") from None
        raise


def _apart(rows: Mapping[Role, Sequence[Example]]) -> None:
    """Refuse benign rows most of whose prompts are to be refused too; tell of fewer."""
    refused, benign = (
        {row.uid for row in rows.get(role, ())} for role in (Role.REFUSAL, Role.BENIGN)
    )
    both = len(refused & benign)
    what = f"{both} of {len(benign)} benign prompts are to be refused too"
    if both and 2 * both >= len(benign):
        raise ConfigError("--data", what, "take them out of one of the files")
    if both:
        say(f"warning: {what}", err=True)


def describe(folder: Path, work: Path, done: Hardened, made: dict[str, Any]) -> None:
    """Write what belongs beside the weights: log, diagnostics, state, their origin, a card."""
    from holdfast.engine.store import write_json
    from holdfast.nn.history import weights
    from holdfast.report.hardened_card import hardened_card

    if (work / "log.jsonl").is_file():
        shutil.copyfile(work / "log.jsonl", folder / "log.jsonl")
    write_json(folder / "diagnostics.json", done.diagnostics)
    done.save_state(folder)
    marker = made | {"steps": done.steps, "flops": done.flops} | weights(folder)
    write_json(folder / MARKER, marker)
    card = hardened_card(marker, done.diagnostics)
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
