"""What the options of one command give: fields, models, rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.cli.saying import say
from holdfast.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.data.format import Format
    from holdfast.data.pool import Pool
    from holdfast.nn.files import ModelFiles
    from holdfast.study.file import Study


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


def study_given(path: Path, seeds: str | None = None) -> Study:
    """Read a study file, all of it or some of its seeds.

    Raises:
        ConfigError: the file is no study, or `seeds` is no list of numbers, names one twice, or one
            that is none of the study's.
    """
    from holdfast.study.file import load_study

    said = load_study(path)
    return said if seeds is None else said.with_(seeds=some_seeds(seeds, said))


def some_seeds(text: str, study: Study) -> tuple[int, ...]:
    """Read some of a study's seeds, in the study's order.

    Raises:
        ConfigError: it is no list of numbers, or one is none of the study's.
    """
    known = ", ".join(map(str, study.seeds))
    try:
        listed = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError("--seeds", f"'{text}' is no list of seeds", "write it as 0,1,2") from None
    wanted = {*listed}
    if len(wanted) < len(listed):
        raise ConfigError("--seeds", f"'{text}' names a seed twice", "name each once")
    if wanted - {*study.seeds}:
        missing = ", ".join(map(str, sorted(wanted - {*study.seeds})))
        raise ConfigError("--seeds", f"the study has no seed {missing}", f"its seeds: {known}")
    return tuple(seed for seed in study.seeds if seed in wanted)


def models(model: str, original: str | None, form: str) -> tuple[ModelFiles, ModelFiles | None]:
    """Give the files of a checkpoint and of its public original, if one is named.

    Raises:
        ConfigError: there is no such format, or the checkpoint has no chat template.
        ModelError: there is no such model, or its weights are not those of its config.
    """
    from holdfast.data.format import Format
    from holdfast.nn.files import resolve
    from holdfast.nn.history import history
    from holdfast.nn.skeleton import check_names
    from holdfast.study.checks import check_chat

    files = resolve(model, "--model")
    check_names(files, "--model")
    history(files.folder)  # refuses a note of other weights
    Format(form).identity("--format")
    if form == "chat":
        check_chat(files.folder, "--format")
    if original is None:
        return files, None
    public = resolve(original, "--original")
    check_names(public, "--original")
    return files, public


def dtype_of(files: ModelFiles, said: str) -> str:
    """Give the dtype in which a checkpoint is saved: `base` is that of the model it is made from.

    Raises:
        ConfigError: there is no such dtype.
    """
    known = ("base", "fp32", "bf16", "fp16")
    if said not in known:
        raise ConfigError("--dtype", f"no dtype '{said}'", did_you_mean(said, known))
    return files.dtype() if said == "base" else said


def format_given(
    form: str, append_eos: bool, system: str | None, date: str, variables: list[str] | None
) -> Format:
    """Give the format that the options of a command describe.

    Raises:
        ConfigError: the date is no day, or a variable's name is none.
    """
    from holdfast.api.fields import parse_yaml
    from holdfast.data.format import Format, check_variables, day

    named: dict[str, Any] = {}
    for text in variables or []:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError("--template-var", f"got '{text}'", "write name=value")
        named[name] = parse_yaml(value, f"--template-var {name}")
    try:
        day(date)
    except ValueError as error:
        raise ConfigError("--date", f"got '{date}'", f"it should be {error}") from None
    try:
        check_variables(named)
    except ValueError as error:
        told = ", ".join(named)
        raise ConfigError("--template-var", f"got '{told}'", f"it should be {error}") from None
    return Format(form, append_eos, system, date, named)


def rows_given(
    data: list[str] | None,
    column: list[str] | None,
    source: list[str] | None,
    model: str,
    side: str | None,
) -> tuple[Pool, list[str]]:
    """Give the rows and the hashes of what they come from.

    Files by role on the given side, named sources, or the model's own world. Says which rows were
    dropped for being on two sides.
    """
    from holdfast.api.fields import parse_yaml
    from holdfast.api.registry import make
    from holdfast.data.pool import Pool

    made: list[Any] = []
    for text in data or []:
        role, sign, path = text.partition("=")
        if not sign:
            raise ConfigError("--data", f"got '{text}'", "write role=FILE")
        given = {"path": path, "role": role, "side": side} | columns(column, role)
        made.append(make("source", {"local": given}, "--data"))
    made += [make("source", parse_yaml(text, "--source"), "--source") for text in source or []]
    if not made and model.startswith("world:"):
        made = [make("source", "world", "--source")]
    if not made:
        raise ConfigError("--data", "no rows given", "give --data role=FILE or --source NAME")
    content = [f"{one.name()} {one.content()} {one.origin()}".rstrip() for one in made]
    pool = Pool.of(made)
    if pool.drops:
        say(pool.drops, err=True)
    return pool, content


MAPPED = ("prompt", "response", "system", "turns", "group", "category", "answer", "meta")
"""What of a row a column can be named for."""


def columns(column: list[str] | None, role: str) -> dict[str, str | None]:
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
