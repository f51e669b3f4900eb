"""Commands for one step alone, on a checkpoint of one's own: defend, attack, generate, judge."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from holdfast.data.pool import Pool

Model = Annotated[
    str, typer.Option("--model", help="A folder, world:base, or org/name@COMMIT of the hub.")
]
Format = Annotated[str, typer.Option("--format", help="plain, chat, or a .jinja file.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="A field: name=value, or group.name=value.")
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", help="Rows: role=FILE (.jsonl, .csv, .parquet); repeat for more."),
]
Sources = Annotated[
    list[str] | None, typer.Option("--source", help="A source of rows, such as world.")
]
Original = Annotated[
    str | None, typer.Option("--original", help="The public original, where a method needs it.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The study seed.")]
Out = Annotated[Path, typer.Option("--out", help="Where to put what is made.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Arithmetic threads.")]


def defend(
    name: Annotated[str, typer.Argument(help="A defence; see `holdfast ls defence`.")],
    model: Model,
    form: Format,
    out: Out,
    sets: Sets = None,
    data: Data = None,
    source: Sources = None,
    original: Original = None,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Harden a checkpoint with one defence. The same command again continues."""
    from holdfast.find import make
    from holdfast.studies.checks import check_chat

    method: Any = make("defence", {name: fields(sets)}, "defend")
    files, public = _models(model, original, form, check_chat)
    if "original" in getattr(method, "needs", ()) and public is None:
        raise ConfigError(f"defend.{name}", "needs the public original", "give --original MODEL")
    pool = _pool(data, source, model, "defender")
    if roles := getattr(method, "rows", None):
        roles(pool, seed)  # too few rows is found before anything is loaded

    from holdfast import models, training
    from holdfast.data.tokens import Encoder
    from holdfast.run import set_threads
    from holdfast.studies.store import write_json

    set_threads(threads)
    with _folder(out) as (temporary, work):
        loaded, tokenizer = models.load(files.folder)
        done = training.harden(
            method,
            loaded,
            Encoder(tokenizer, form, where="--format"),
            pool,
            seed=seed,
            work=work,
            sources={"original": models.tensors(public.folder)} if public else {},
            progress=_progress,
        )
        models.save(done.model, tokenizer, temporary)
        write_json(temporary / "diagnostics.json", done.diagnostics)
        if (work / "log.jsonl").is_file():
            shutil.copyfile(work / "log.jsonl", temporary / "log.jsonl")
        marker = {"defences": [method.identity()], "seed": seed, "attacked": False}
        write_json(
            temporary / "holdfast.json",
            {"made_by": "holdfast", "model": model, "format": form, **marker},
        )
    typer.echo(f"{done.steps} steps, {done.flops:.3g} FLOPs: {out}")


def attack(
    name: Annotated[str, typer.Argument(help="An attack; see `holdfast ls attack`.")],
    model: Model,
    form: Format,
    out: Out,
    sets: Sets = None,
    data: Data = None,
    source: Sources = None,
    original: Original = None,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Attack a checkpoint up to the attack's last budget and keep the result, marked as such."""
    from holdfast.find import make
    from holdfast.method import WeightAttack
    from holdfast.studies.checks import check_chat

    method: Any = make("attack", {name: fields(sets)}, "attack")
    files, public = _models(model, original, form, check_chat)
    if "original" in method.needs and public is None:
        raise ConfigError(f"attack.{name}", "needs the public original", "give --original MODEL")
    pool = _pool(data, source, model, "attacker")
    if not isinstance(method, WeightAttack):
        method.rows(pool, seed)
    last = max(method.points())

    from holdfast import models, training
    from holdfast.data.tokens import Encoder
    from holdfast.run import set_threads
    from holdfast.studies.store import write_json

    set_threads(threads)
    with _folder(out) as (temporary, work):
        loaded, tokenizer = models.load(files.folder)
        edits = isinstance(method, WeightAttack)

        def on_point(point: float, info: Any) -> None:
            if edits:  # the start weights come back after it
                models.save(loaded, tokenizer, temporary)

        training.attack(
            method,
            loaded,
            Encoder(tokenizer, form, where="--format"),
            pool,
            seed=seed,
            work=work,
            sources={"original": models.tensors(public.folder)} if public else {},
            points=[last],
            on_point=on_point,
            progress=_progress,
        )
        if not edits:
            models.save(loaded, tokenizer, temporary)
        marker = {"attack": method.identity(), "budget": last, "seed": seed, "attacked": True}
        write_json(
            temporary / "holdfast.json",
            {"made_by": "holdfast", "model": model, "format": form, **marker},
        )
    typer.echo(f"attacked up to {last:g} {method.unit}, do not publish: {out}")


def generate(
    model: Model,
    form: Format,
    out: Out,
    prompts: Annotated[
        str, typer.Option("--prompts", help="An evaluation set, or a .jsonl file of prompts.")
    ] = "restricted",
    side: Annotated[str, typer.Option("--side", help="Whose rows of the set.")] = "evaluator",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Groups; all without it.")] = None,
    sets: Sets = None,
    source: Sources = None,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Answer prompts with a checkpoint; --set changes the sampler. Writes JSON lines."""
    from holdfast.config import decode
    from holdfast.data.example import Role, Side, example
    from holdfast.generation.sampler import Sampler
    from holdfast.studies.checks import check_chat

    sampler = decode(Sampler, fields(sets), "generate")
    files, _ = _models(model, None, form, check_chat)
    if prompts.endswith(".jsonl"):
        rows = [
            example(_text(row, "prompt", f"{prompts}:{i}"), role=Role.HARMFUL, meta=row.get("meta"))
            for i, row in enumerate(_lines(Path(prompts)), start=1)
        ]
    else:
        if side not in set(Side):
            raise ConfigError("--side", f"no side '{side}'", did_you_mean(side, list(Side)))
        rows = _pool(None, source, model, None).evaluation(prompts, Side(side), n, 0)

    from holdfast import generation, models
    from holdfast.data.tokens import Encoder
    from holdfast.run import set_threads

    set_threads(threads)
    loaded, tokenizer = models.load(files.folder)
    encoder = Encoder(tokenizer, form, where="--format")
    answers = generation.generate(loaded, encoder, rows, sampler, seed=seed)
    written = [
        {
            "uid": row.uid,
            "system": row.system,
            "prompt": row.prompt,
            "response": answer.text,
            "finish_reason": answer.finish_reason,
            "meta": dict(row.meta),
        }
        for row, answer in zip(rows, answers, strict=True)
    ]
    _write(out, written)
    typer.echo(f"{len(written)} answers: {out}")


def judge(
    name: Annotated[str, typer.Argument(help="A judge; see `holdfast ls judge`.")],
    exchanges: Annotated[Path, typer.Option("--exchanges", help="What `generate` wrote.")],
    out: Out,
    sets: Sets = None,
) -> int:
    """Have a judge read answers. Writes JSON lines and counts the outcomes."""
    from holdfast.errors import InvalidResultsError
    from holdfast.find import make
    from holdfast.method import MOST_UNSCORED, Exchange

    reader: Any = make("judge", {name: fields(sets)}, "judge")
    verdicts = []
    for i, row in enumerate(_lines(exchanges), start=1):
        where = f"{exchanges}:{i}"
        exchange = Exchange(
            example_uid=str(row.get("uid", i)),
            system=row.get("system"),
            prompt=_text(row, "prompt", where),
            prefill=row.get("prefill", ""),
            response=_text(row, "response", where),
            finish_reason=row.get("finish_reason", "stop"),
            meta=row.get("meta") or {},
        )
        verdict = reader.judge(exchange)
        found = {"score": verdict.score, "outcome": verdict.outcome, "reason": verdict.reason}
        verdicts.append({"uid": exchange.example_uid, **found, "raw": verdict.raw})
    _write(out, verdicts)
    counts = Counter(str(row["outcome"] or row["reason"]) for row in verdicts)
    for word, count in counts.most_common():
        typer.echo(f"{word:<16}{count:>6}")
    unscored = sum(row["reason"] != "ok" for row in verdicts)
    if unscored > MOST_UNSCORED * len(verdicts):
        raise InvalidResultsError(
            "judge", f"{unscored} of {len(verdicts)} answers have no verdict", f"see {out}"
        )
    return 0


COMMANDS: dict[str, Callable[..., Any]] = {
    "defend": defend,
    "attack": attack,
    "generate": generate,
    "judge": judge,
}


def fields(sets: list[str] | None) -> dict[str, Any]:
    """Give `a.b=value` options as nested fields; values are read as YAML."""
    from holdfast.config import parse_yaml

    found: dict[str, Any] = {}
    for text in sets or []:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ConfigError("--set", f"got '{text}'", "write name=value")
        *groups, last = name.split(".")
        inner = found
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise ConfigError("--set", f"'{group}' is given twice", "keep one")
        inner[last] = parse_yaml(value, f"--set {name}")
    return found


def _models(model: str, original: str | None, form: str, check_chat: Callable[..., None]) -> Any:
    from holdfast.data.tokens import format_identity
    from holdfast.models.files import resolve

    files = resolve(model, "--model")
    format_identity(form, "--format")
    if form == "chat":
        check_chat(files.folder, "--format")
    return files, resolve(original, "--original") if original else None


def _pool(data: list[str] | None, source: list[str] | None, model: str, side: str | None) -> Pool:
    """Give the rows: files by role on the given side, named sources, or the model's world."""
    from holdfast.config import parse_yaml
    from holdfast.data.pool import Pool
    from holdfast.find import make

    made: list[Any] = []
    for text in data or []:
        role, sign, path = text.partition("=")
        if not sign:
            raise ConfigError("--data", f"got '{text}'", "write role=FILE")
        made.append(make("source", {"file": {"path": path, "role": role, "side": side}}, "--data"))
    made += [make("source", parse_yaml(text, "--source"), "--source") for text in source or []]
    if not made and model.startswith("world:"):
        made = [make("source", "world", "--source")]
    if not made:
        raise ConfigError("--data", "no rows given", "give --data role=FILE or --source NAME")
    return Pool(row for one in made for row in one.examples())


@contextmanager
def _folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Give a temporary folder that becomes `out` when whole, and one for checkpoints beside it."""
    from holdfast.studies.store import rename, sync, writing

    if out.exists():
        raise ConfigError("--out", f"{out} exists", "name a folder that does not")
    temporary = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    work = out.with_name(f".{out.name}.work")
    try:
        with writing(out):
            for stale in out.parent.glob(f".{out.name}.tmp-*"):
                shutil.rmtree(stale, ignore_errors=True)
            temporary.mkdir(parents=True)
            work.mkdir(exist_ok=True)
            yield temporary, work
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
            rename(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    from holdfast.studies.store import rename, sync, write_lines, writing

    part = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_lines(part, rows)
            sync(part)
            rename(part, out)
    finally:
        part.unlink(missing_ok=True)


def _lines(path: Path) -> list[dict[str, Any]]:
    from holdfast.studies.store import read_lines

    try:
        rows = read_lines(path)
    except FileNotFoundError:
        raise DataError(str(path), "no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "write JSON lines") from None
    if not rows:
        raise DataError(str(path), "no rows", "write JSON lines")
    return rows


def _text(row: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(name), str):
        raise DataError(where, f"no text under '{name}'", f"give every line a '{name}'")
    return row[name]


def _progress(part: str, done: int, total: int) -> None:
    """Show training: a moving line on a terminal, every tenth elsewhere."""
    import sys

    if sys.stderr.isatty():
        typer.echo(f"\r{part} {done}/{total}", err=True, nl=done == total)
    elif done % max(1, total // 10) == 0:
        typer.echo(f"{part} {done}/{total}", err=True)
