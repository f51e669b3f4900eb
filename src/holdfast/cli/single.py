"""Commands for one step alone, on a checkpoint of one's own: defend, attack, generate, judge."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import preflight
from holdfast.cli.device import Device
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
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", help="A column of the files: prompt=NAME, or role.prompt=NAME for one role."
    ),
]
Eos = Annotated[
    bool, typer.Option("--append-eos/--no-append-eos", help="End responses with the end token.")
]


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
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Harden a checkpoint with one defence. The same command again continues."""
    from holdfast.api import Trainable
    from holdfast.api.registry import make
    from holdfast.study.checks import check_chat

    method: Any = make("defence", {name: fields(sets)}, "defend")
    files, public = _models(model, original, form, check_chat)
    if "original" in getattr(method, "needs", ()) and public is None:
        raise ConfigError(f"defend.{name}", "needs the public original", "give --original MODEL")
    pool, content = _pool(data, column, source, model, "defender")
    # What is missing, too long or too large is found before any weight is loaded.
    rows = method.rows(pool, seed) if hasattr(method, "rows") else {}
    coder = preflight.encoder(files, form, append_eos=append_eos)
    trains = isinstance(method, Trainable)
    loop, copies = (method.loop, method.copies()) if trains else (None, 0)
    preflight.check(files, coder, rows, loop, copies=copies, device=device)

    from holdfast import nn, train
    from holdfast.api import set_threads
    from holdfast.engine.store import write_json
    from holdfast.report.hardened_card import hardened_card

    set_threads(threads)
    about = _about(files, method, form, append_eos, seed, content)
    with _folder(out) as (temporary, work):
        train.claim(work, about, "--out")
        loaded, tokenizer = nn.load(files.folder, device=device)
        base = nn.model_hash(loaded)
        done = train.harden(
            method,
            loaded,
            coder,
            pool,
            seed=seed,
            work=work,
            sources={"original": nn.tensors(public.folder)} if public else {},
            progress=_progress,
        )
        nn.save(done.model, tokenizer, temporary)
        write_json(temporary / "diagnostics.json", done.diagnostics)
        if (work / "log.jsonl").is_file():
            shutil.copyfile(work / "log.jsonl", temporary / "log.jsonl")
        done.save_state(temporary)
        marker = _provenance(model, about, threads, device) | {
            "base": base,
            "defences": [method.identity()],
            "rows": {str(role): len(some) for role, some in rows.items()},
            "steps": done.steps,
            "flops": done.flops,
            "attacked": False,
        }
        write_json(temporary / "holdfast.json", marker)
        card = hardened_card(marker, done.diagnostics)
        (temporary / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    typer.echo(f"{done.steps} steps, {done.flops:.3g} FLOPs: {out}")


def attack(
    name: Annotated[str, typer.Argument(help="An attack; see `holdfast ls attack`.")],
    model: Model,
    form: Format,
    out: Out,
    sets: Sets = None,
    data: Data = None,
    column: Columns = None,
    source: Sources = None,
    original: Original = None,
    append_eos: Eos = True,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Attack a checkpoint up to the attack's last budget and keep the result, marked as such."""
    from holdfast.api import Attack, PromptAttack, WeightAttack
    from holdfast.api.registry import make
    from holdfast.engine.fit import EDITED
    from holdfast.study.checks import check_chat

    method: Any = make("attack", {name: fields(sets)}, "attack")
    if isinstance(method, PromptAttack):
        raise _leaves_nothing(name)
    files, public = _models(model, original, form, check_chat)
    if "original" in method.needs and public is None:
        raise ConfigError(f"attack.{name}", "needs the public original", "give --original MODEL")
    edits = isinstance(method, WeightAttack)
    reads = type(method).rows is not Attack.rows or type(method).expand is not Attack.expand
    pool: Any = None
    content: list[str] = []
    if reads or data or source:
        pool, content = _pool(data, column, source, model, "attacker")
    method = _one_choice(method, pool)
    coder = preflight.encoder(files, form, append_eos=append_eos)
    rows, loop = method.rows(pool, seed), None if edits else method.loop
    if edits:  # it reads no answer
        rows = {role: [replace(row, response=None) for row in some] for role, some in rows.items()}
    copies = EDITED if edits else method.copies()
    preflight.check(files, coder, rows, loop, copies=copies, device=device)
    if not method.points():
        raise ConfigError(f"attack.{name}.evaluate_at", "names no budget above 0", "name one")
    last = max(method.points())

    from holdfast import nn, train
    from holdfast.api import set_threads
    from holdfast.engine.store import write_json

    set_threads(threads)
    about = _about(files, method, form, append_eos, seed, content)
    with _folder(out) as (temporary, work):
        train.claim(work, about, "--out")
        loaded, tokenizer = nn.load(files.folder, device=device)

        def on_point(point: float, info: Any) -> None:
            if edits:  # the start weights come back after it
                nn.save(loaded, tokenizer, temporary)

        train.attack(
            method,
            loaded,
            coder,
            pool,
            seed=seed,
            work=work,
            sources={"original": nn.tensors(public.folder)} if public else {},
            points=[last],
            on_point=on_point,
            progress=_progress,
        )
        if not edits:
            nn.save(loaded, tokenizer, temporary)
        if (work / "log.jsonl").is_file():
            shutil.copyfile(work / "log.jsonl", temporary / "log.jsonl")
        marker = {"attack": method.identity(), "budget": last, "attacked": True}
        write_json(temporary / "holdfast.json", _provenance(model, about, threads, device) | marker)
    typer.echo(f"attacked up to {last:g} {method.unit}, do not publish: {out}")


def generate(
    model: Model,
    form: Format,
    out: Out,
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts", help="An evaluation set, or a .jsonl, .csv or .parquet file of prompts."
        ),
    ] = "restricted",
    column: Columns = None,
    side: Annotated[str, typer.Option("--side", help="Whose rows of the set.")] = "evaluator",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Groups; all without it.")] = None,
    sets: Sets = None,
    source: Sources = None,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Answer prompts with a checkpoint; --set changes the sampler. Writes JSON lines."""
    from holdfast.api.fields import decode
    from holdfast.api.registry import make
    from holdfast.data.example import Role, Side, example
    from holdfast.evaluate.sampler import Sampler
    from holdfast.study.checks import check_chat

    sampler = decode(Sampler, fields(sets), "generate")
    files, _ = _models(model, None, form, check_chat)
    if prompts.endswith(".jsonl") and not column:  # keeps what a judge needs: the meta of each line
        rows = [
            example(
                _text(row, "prompt", f"{prompts}:{i}"),
                role=Role.HARMFUL,
                system=_maybe(row, "system", f"{prompts}:{i}"),
                meta=_meta(row, f"{prompts}:{i}"),
            )
            for i, row in enumerate(_lines(Path(prompts)), start=1)
        ]
    elif prompts.endswith((".jsonl", ".csv", ".parquet")):
        given = {"path": prompts, "role": "harmful", "response": None}
        asked: Any = make("source", {"file": given | _columns(column, "harmful")}, "--prompts")
        rows = asked.examples()
    else:
        if side not in set(Side):
            raise ConfigError("--side", f"no side '{side}'", did_you_mean(side, list(Side)))
        rows = _pool(None, None, source, model, None)[0].evaluation(prompts, Side(side), n, 0)
    coder = preflight.encoder(files, form)
    preflight.check(files, coder, {}, None, device=device)

    from holdfast import evaluate, nn
    from holdfast.api import set_threads

    set_threads(threads)
    loaded, _ = nn.load(files.folder, device=device)
    answers = evaluate.generate(loaded, coder, rows, sampler, seed=seed)
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
    from holdfast.api import Exchange
    from holdfast.api.registry import make
    from holdfast.api.verdicts import ask, too_many_unscored, unscored
    from holdfast.errors import InvalidResultsError

    reader: Any = make("judge", {name: fields(sets)}, "judge")
    verdicts, missing = [], 0
    for i, row in enumerate(_lines(exchanges), start=1):
        where = f"{exchanges}:{i}"
        exchange = Exchange(
            example_uid=str(row.get("uid", i)),
            system=_maybe(row, "system", where),
            prompt=_text(row, "prompt", where),
            prefill=_maybe(row, "prefill", where) or "",
            response=_text(row, "response", where),
            finish_reason=_maybe(row, "finish_reason", where) or "stop",
            meta=_meta(row, where),
        )
        verdict = ask(reader, exchange)
        missing += unscored(verdict.reason, verdict.outcome)
        found = {"score": verdict.score, "outcome": verdict.outcome, "reason": verdict.reason}
        verdicts.append({"uid": exchange.example_uid, **found, "raw": verdict.raw})
    _write(out, verdicts)
    counts = Counter(str(row["outcome"] or row["reason"]) for row in verdicts)
    for word, count in counts.most_common():
        typer.echo(f"{word:<16}{count:>6}")
    if too_many_unscored(missing, len(verdicts)):
        raise InvalidResultsError(
            "judge", f"{missing} of {len(verdicts)} answers have no verdict", f"see {out}"
        )
    return 0


def _leaves_nothing(name: str) -> ConfigError:
    return ConfigError(
        f"attack.{name}",
        "acts while the model answers, so no checkpoint comes of it",
        "put it in a study",
    )


def _one_choice(method: Any, pool: Any) -> Any:
    """Give the one choice that an attack stands for, which must leave a checkpoint.

    Raises:
        ConfigError: it acts while the model answers, or stands for several.
    """
    from holdfast.api import TrainedAttack

    choices = method.expand(pool)
    if not any(isinstance(one, TrainedAttack) or one.weights_alone for one in choices):
        raise _leaves_nothing(method.name())
    if len(choices) > 1:
        fields = [one.model_dump(mode="json") for one in choices]
        alone = (one for one in choices if one.weights_alone)
        first = next(alone, choices[0]).model_dump(mode="json")
        differ = [name for name in first if any(one[name] != first[name] for one in fields)]
        such = " ".join(f"--set '{name}={json.dumps(first[name])}'" for name in differ)
        raise ConfigError(
            f"attack.{method.name()}",
            f"stands for {len(choices)} choices, which differ in {' and '.join(differ)}",
            f"give one, such as {such}",
        )
    return choices[0]


COMMANDS: dict[str, Callable[..., Any]] = {
    "defend": defend,
    "attack": attack,
    "generate": generate,
    "judge": judge,
}


def fields(sets: list[str] | None) -> dict[str, Any]:
    """Give `a.b=value` options as nested fields; values are read as YAML."""
    from holdfast.api.fields import parse_yaml

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
    from holdfast.nn.files import resolve

    files = resolve(model, "--model")
    format_identity(form, "--format")
    if form == "chat":
        check_chat(files.folder, "--format")
    return files, resolve(original, "--original") if original else None


def _pool(
    data: list[str] | None,
    column: list[str] | None,
    source: list[str] | None,
    model: str,
    side: str | None,
) -> tuple[Pool, list[str]]:
    """Give the rows and the hashes of what they come from.

    Files by role on the given side, named sources, or the model's own world.
    """
    from holdfast.api.fields import parse_yaml
    from holdfast.api.registry import make
    from holdfast.data.pool import Pool

    made: list[Any] = []
    for text in data or []:
        role, sign, path = text.partition("=")
        if not sign:
            raise ConfigError("--data", f"got '{text}'", "write role=FILE")
        given = {"path": path, "role": role, "side": side} | _columns(column, role)
        made.append(make("source", {"file": given}, "--data"))
    made += [make("source", parse_yaml(text, "--source"), "--source") for text in source or []]
    if not made and model.startswith("world:"):
        made = [make("source", "world", "--source")]
    if not made:
        raise ConfigError("--data", "no rows given", "give --data role=FILE or --source NAME")
    content = [f"{one.name()} {one.content()}" for one in made]
    personas = [persona for one in made for persona in one.personas()]
    return Pool((row for one in made for row in one.examples()), personas), content


MAPPED = ("prompt", "response", "system", "group", "category", "answer")
"""What of a row a column can be named for."""


def _columns(column: list[str] | None, role: str) -> dict[str, str | None]:
    """Give the column map of one role's files; an empty name means there is no such column."""
    found: dict[str, str | None] = {}
    for text in sorted(column or [], key=lambda one: "." in one.partition("=")[0]):
        name, sign, value = text.partition("=")
        owner, dot, last = name.rpartition(".")
        if not sign or last not in MAPPED:
            raise ConfigError(
                "--column",
                f"got '{text}'",
                "write prompt=NAME or role.prompt=NAME, one of " + ", ".join(MAPPED),
            )
        if not dot or owner == role:
            found[last] = value or None
    return found


def _about(
    files: Any, method: Any, form: str, append_eos: bool, seed: int, content: list[str]
) -> dict[str, Any]:
    """Give what decides a run's result: two runs with the same are one."""
    from holdfast.data.tokens import format_identity

    return {
        "method": method.identity(),
        "weights": files.identity(),
        "format": format_identity(form, append_eos=append_eos),
        "seed": seed,
        "sources": content,
    }


def _provenance(model: str, about: dict[str, Any], threads: int, device: str) -> dict[str, Any]:
    """Give where a checkpoint comes from, and on what it was made."""
    from holdfast import __version__
    from holdfast.api import environment
    from holdfast.engine.runner import git_commit

    form = about["format"]
    told = {"made_by": "holdfast", "version": __version__, "commit": git_commit(), "model": model}
    return told | {
        "format": form["format"],
        "append_eos": form.get("append_eos", True),
        "seed": about["seed"],
        "input": about["weights"],
        "sources": about["sources"],
        "device": device,
        "environment": environment(threads),
    }


@contextmanager
def _folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Give a temporary folder that becomes `out` when whole, and one for checkpoints beside it."""
    from holdfast.disk import whole_folder

    if out.exists():
        raise ConfigError("--out", f"{out} exists", "name a folder that does not")
    work = out.with_name(f".{out.name}.work")
    with whole_folder(out) as temporary:
        work.mkdir(exist_ok=True)
        yield temporary, work
    shutil.rmtree(work, ignore_errors=True)


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    from holdfast.disk import whole_file
    from holdfast.engine.store import write_lines

    with whole_file(out) as part:
        write_lines(part, rows)


def _lines(path: Path) -> list[dict[str, Any]]:
    from holdfast.engine.store import read_lines

    try:
        rows = read_lines(path)
    except FileNotFoundError:
        raise DataError(str(path), "no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise DataError(str(path), f"cannot be read ({error})", "write JSON lines") from None
    if not rows:
        raise DataError(str(path), "no rows", "write JSON lines")
    for i, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}:{i}", "not a JSON object", "write one object a line")
    return rows


def _text(row: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(row.get(name), str):
        raise DataError(where, f"no text under '{name}'", f"give every line a '{name}'")
    return row[name]


def _maybe(row: dict[str, Any], name: str, where: str) -> str | None:
    return None if row.get(name) is None else _text(row, name, where)


def _meta(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Give what a judge may know of a line; the true steps, where told, are a list of texts."""
    meta = row.get("meta") or {}
    if not isinstance(meta, dict):
        raise DataError(where, "'meta' is no object", "write fields there, or leave it out")
    steps = meta.get("steps", [])
    if not (isinstance(steps, list) and all(isinstance(step, str) for step in steps)):
        raise DataError(where, "'meta.steps' is no list of texts", "write one text a step")
    return meta


def _progress(part: str, done: int, total: int) -> None:
    """Show training: a moving line on a terminal, every tenth elsewhere."""
    import sys

    if sys.stderr.isatty():
        typer.echo(f"\r{part} {done}/{total}", err=True, nl=done == total)
    elif done % max(1, total // 10) == 0:
        typer.echo(f"{part} {done}/{total}", err=True)
