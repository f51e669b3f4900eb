"""`holdfast attack`: attack a checkpoint of one's own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
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
from holdfast.data.format import DATE, MARKER
from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.api import Attack
    from holdfast.data.pool import Pool
    from holdfast.data.tokens import Encoder
    from holdfast.nn.files import ModelFiles


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
    system: System = None,
    date: Date = DATE,
    template_var: Variables = None,
    dtype: Dtype = "base",
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "cpu",
) -> None:
    """Attack a checkpoint up to the attack's last budget and keep the result, marked as such."""
    from holdfast.api import PromptAttack, WeightAttack
    from holdfast.api.registry import make

    try_making(out)
    method: Any = make("attack", {name: fields(sets)}, "attack")
    if isinstance(method, PromptAttack):
        raise _leaves_nothing(name)
    asked = format_given(form, append_eos, system, date, template_var)
    files, public = models(model, original, form)
    held = dtype_of(files, dtype)
    if "original" in method.needs and public is None:
        raise ConfigError(f"attack.{name}", "needs the public original", "give --original MODEL")
    pool: Any = None
    content: list[str] = []
    if _reads(method) or data or source:
        pool, content = rows_given(data, column, source, model, "attacker")
    method = _one_choice(method, pool)
    _ends_at_its_budget(method, fields(sets))
    edits = isinstance(method, WeightAttack)
    coder = preflight.encoder(files, asked)
    preflight.warn(files, asked)
    _check_fit(method, files, coder, pool, seed, device)
    last = _last(method)

    from holdfast import nn, train
    from holdfast.api import set_threads, spelt
    from holdfast.engine.store import write_json
    from holdfast.nn.history import weights
    from holdfast.study.keys import digest

    set_threads(threads)
    about = decides(files, method, asked, seed, content, public)
    if finished(out, run := digest(about)):
        return
    with whole_folder(out) as (temporary, work):
        train.claim(work, about, "--out")
        loaded, tokenizer = nn.load(files, device=device)

        def on_point(point: float, info: object) -> None:
            if edits:  # the start weights come back after it
                nn.save(loaded, tokenizer, temporary, dtype=held)

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
            progress=Training(),
        )
        if not edits:
            nn.save(loaded, tokenizer, temporary, dtype=held)
        if (work / "log.jsonl").is_file():
            shutil.copyfile(work / "log.jsonl", temporary / "log.jsonl")
        marker = {"attack": method.identity(), "budget": last, "attacked": True, "run": run}
        told = provenance(files, about, coder, threads, device, held, public)
        write_json(temporary / MARKER, told | marker | weights(temporary))
    say(f"attacked up to {spelt(last, method.unit)} {method.unit}, do not publish: {out}")


def _reads(method: Attack) -> bool:
    """Say whether an attack reads rows, or chooses by them."""
    from holdfast.api import Attack

    return type(method).rows is not Attack.rows or type(method).expand is not Attack.expand


def _check_fit(
    method: Attack, files: ModelFiles, coder: Encoder, pool: Pool | None, seed: int, device: str
) -> None:
    """Refuse what is too long or too large before any weight is loaded."""
    from holdfast.api import TrainedAttack
    from holdfast.engine.fit import EDITED

    rows = method.rows(method.sees(pool), seed) if pool is not None else {}
    loop, copies = None, EDITED
    if isinstance(method, TrainedAttack):
        loop, copies = method.loop, method.copies()
    else:  # it reads no answer
        rows = {role: [replace(row, response=None) for row in some] for role, some in rows.items()}
    preflight.check(files, coder, rows, loop, copies=copies, device=device)


def _ends_at_its_budget(method: Attack, given: dict[str, Any]) -> None:
    """Refuse steps that were asked for and change nothing: training ends at the last budget."""
    from holdfast.api import FineTuning

    loop = given.get("loop")
    steps = loop.get("steps") if isinstance(loop, dict) else None
    if isinstance(method, FineTuning) and steps and method.loop.schedule == "constant":
        raise ConfigError(
            f"attack.{method.name()}.loop.steps",
            "changes nothing at a constant rate: training ends at the last budget",
            f"give that: --set 'evaluate_at=[{int(steps) * method.loop.batch}]', in examples seen",
        )


def _last(method: Attack) -> float:
    """Give the largest budget."""
    if not method.points():
        where = f"attack.{method.name()}.evaluate_at"
        raise ConfigError(where, "names no budget above 0", "name one")
    return max(method.points())


def _leaves_nothing(name: str) -> ConfigError:
    return ConfigError(
        f"attack.{name}",
        "acts while the model answers, so no checkpoint comes of it",
        "put it in a study",
    )


def _one_choice(method: Attack, pool: Pool) -> Any:  # noqa: ANN401  (its kind is only known here)
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
