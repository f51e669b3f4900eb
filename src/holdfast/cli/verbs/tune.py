"""`holdfast tune`: train on a customer's rows without losing safety."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
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
    Model,
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
from holdfast.cli.verbs.defend import describe
from holdfast.data.format import DATE
from holdfast.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from holdfast.api import Risk, TuneDefence
    from holdfast.data.example import Example, Role
    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Encoder
    from holdfast.nn.files import ModelFiles
    from holdfast.train.training import Hardened

TASK = "task"
"""The role of the customer's rows in --data."""

RiskGiven = Annotated[
    str | None,
    typer.Option("--risk", help="Who scores rows, as YAML: probe, or {kind: judge, judge: NAME}."),
]
Reference = Annotated[
    str | None,
    typer.Option("--reference", help="The model that the leash is tied to; the start by default."),
]


def tune(
    name: Annotated[
        str, typer.Argument(help="A defence at stage tune; see `holdfast ls defence`.")
    ],
    model: Model,
    form: Format,
    out: Out,
    sets: Sets = None,
    risk: RiskGiven = None,
    data: Data = None,
    column: Columns = None,
    source: Sources = None,
    reference: Reference = None,
    append_eos: Eos = True,
    system: System = None,
    date: Date = DATE,
    template_var: Variables = None,
    dtype: Dtype = "base",
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Train on a customer's rows under a defence. The same command again continues.

    `--data task=FILE` is the customer's file; other roles are the defender's own rows.
    """
    from holdfast.api.registry import make
    from holdfast.study.keys import digest
    from holdfast.train.tuning import anonymous, check_responses, checked

    try_making(out)
    made: Any = make("defence", {name: _fields(sets, risk)}, "tune")
    method = checked(made, None)
    asked = format_given(form, append_eos, system, date, template_var)
    files, _ = models(model, None, form)
    other = _reference(files, reference)
    held = dtype_of(files, dtype)
    customer, pool, content = _rows(data, column, source, model)
    own = method.rows(method.sees(pool), seed)
    coder = preflight.encoder(files, asked)
    check_responses(anonymous(customer), coder, name)
    from holdfast.data.example import Role

    rows = {Role.TASK: customer, **own}
    preflight.check(files, coder, rows, method.loop, copies=method.copies(), device=device)

    about = decides(files, method, asked, seed, content)
    about |= {"reference": other.identity()} if other else {}
    if finished(out, digest(about)):
        return
    say(_passes(method, len(customer)))
    if doubt := _unseen(method, customer, pool):
        say(f"warning: {doubt}", err=True)
    job = _Job(method, files, other, coder, customer, pool, rows, about)
    done = job.run(out, held, seed=seed, threads=threads, device=device)
    say(f"{done.steps} steps, {done.flops:.3g} FLOPs: {out}")


@dataclass(frozen=True)
class _Job:
    """One customer's job, all of it checked."""

    method: TuneDefence
    files: ModelFiles
    reference: ModelFiles | None
    coder: Encoder
    customer: list[Example]
    pool: Pool
    rows: Mapping[Role, list[Example]]
    about: dict[str, Any]

    def run(self, out: Path, dtype: str, *, seed: int, threads: int, device: str) -> Hardened:
        """Train, and write the checkpoint with what belongs beside it."""
        from holdfast import nn, train
        from holdfast.api import set_threads
        from holdfast.nn.history import attacked, history
        from holdfast.study.keys import digest

        before = history(self.files.folder)
        if attacked(before):
            said = "warning: --model: its weights were attacked; so this is marked too"
            say(said, err=True)
        set_threads(threads)
        with whole_folder(out) as (temporary, work):
            train.claim(work, self.about, "--out")
            loaded, tokenizer = nn.load(self.files, device=device)
            base = nn.model_hash(loaded)
            other = self.reference
            done = train.tune(
                self.method,
                loaded,
                self.coder,
                self.customer,
                self.pool,
                seed=seed,
                work=work,
                sources={"reference": nn.tensors(other.folder)} if other else {},
                progress=Training(),
            )
            nn.save(done.model, tokenizer, temporary, dtype=dtype)
            made = provenance(self.files, self.about, self.coder, threads, device, dtype, None)
            marker = made | {
                "run": digest(self.about),
                "tuned": True,
                "base": base,
                "defences": [self.method.identity()],
                "rows": {str(role): len(some) for role, some in self.rows.items()},
                "attacked": attacked(before),
            }
            describe(temporary, work, done, marker)
            if (work / "probe").is_dir():
                shutil.copytree(work / "probe", temporary / "probe")
        return done


def _fields(sets: list[str] | None, risk: str | None) -> dict[str, Any]:
    """Give the defence's fields; `--risk probe` is `--risk '{kind: probe}'`."""
    from holdfast.api.fields import parse_yaml

    found = fields(sets)
    if risk is None:
        return found
    if "risk" in found:
        raise ConfigError("--risk", "is given in --set too", "keep one")
    said = parse_yaml(risk, "--risk")
    return found | {"risk": {"kind": said} if isinstance(said, str) else said}


def _rows(
    data: list[str] | None, column: list[str] | None, source: list[str] | None, model: str
) -> tuple[list[Example], Pool, list[str]]:
    """Give the customer's rows, the defender's pool, and the hashes of what both come from."""
    from holdfast.data.example import Role, Side

    theirs = [text for text in data or [] if text.partition("=")[0] == TASK]
    if not theirs:
        raise ConfigError("--data", "has no rows of the customer's", "give --data task=FILE")
    job, sent = rows_given(theirs, column, None, model, Side.ATTACKER.value)
    mine = [text for text in data or [] if text not in theirs]
    pool: Pool
    own: list[str]
    if not mine and not source and not model.startswith("world:"):
        pool, own = job, []
    else:
        pool, own = rows_given(mine, column, source, model, Side.DEFENDER.value)
    rows = [row for row in job.rows(Side.ATTACKER) if row.role is Role.TASK]
    return rows, pool, [*sent, *own]


def _passes(method: TuneDefence, rows: int) -> str:
    """Say how often the host's loop meets a customer's row."""
    steps, batch = method.loop.steps, method.loop.batch
    told = f"{steps:,} steps of {batch}: each of the customer's {rows:,} rows {{}}"
    seen = steps * batch / rows
    if seen < 1:
        return told.format(f"at most once, {rows - steps * batch:,} never (--set loop.steps=N)")
    return told.format(f"about {seen:.3g} times (--set loop.steps=N)")


def _unseen(method: TuneDefence, customer: list[Example], pool: Pool) -> str:
    """Say that a probe is fitted to rows without system prompts, and asked about others."""
    from holdfast.data.example import Side

    risk: Risk | None = getattr(method, "risk", None)
    every = () if risk is None else (risk, *risk.of)
    if not any(one.kind == "probe" and one.path is None for one in every):
        return ""
    number = sum(row.system is not None for row in customer)
    sides = (Side.DEFENDER, Side.DEFENDER_SELECTION)
    own = [row for side in sides for row in pool.given(side) if row.system is not None]
    if not number or own:
        return ""
    return (
        f"{number} of the customer's {len(customer)} rows have a system prompt, and none that the "
        "probe is fitted to has: where that was measured, it found no risky row under one "
        "(docs/tuning.md)"
    )


def _reference(files: ModelFiles, said: str | None) -> ModelFiles | None:
    """Give the reference's files; refuse another tokenizer, and a checkpoint that also sees.

    Raises:
        ConfigError, ModelError: see their texts.
    """
    from transformers import AutoConfig

    from holdfast.data.tokens import load_tokenizer
    from holdfast.nn.files import resolve
    from holdfast.train.tuning import check_text_only

    check_text_only(AutoConfig.from_pretrained(files.folder, local_files_only=True), "--model")
    if said is None:
        return None
    other = resolve(said, "--reference")
    ours, theirs = (
        load_tokenizer(Path(one.folder), where).get_vocab()
        for one, where in ((files, "--model"), (other, "--reference"))
    )
    if ours != theirs:
        raise ModelError(
            "--reference", "has another tokenizer than the model", "use one of the same family"
        )
    return other
