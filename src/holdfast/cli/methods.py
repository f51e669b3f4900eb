"""Commands that tell what there is: ls, show, schema, doctor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from holdfast import __version__
from holdfast.errors import ConfigError, did_you_mean


def ls(
    kind: Annotated[
        str | None, typer.Argument(help="defence, attack, judge or source; all without it.")
    ] = None,
) -> None:
    """List the methods of this package and of installed plugins."""
    from holdfast.api.registry import KINDS, about, names, origin

    kinds = [kind] if kind is not None else list(KINDS)
    for one in kinds:
        known = names(one)
        for name in known:
            where = origin(one, name)
            said = about(one, name)
            typer.echo(f"{one:<9}{name:<17}{'' if where == 'holdfast' else f'[{where}] '}{said}")


def show(name: Annotated[str, typer.Argument(help="A method's name; see `holdfast ls`.")]) -> None:
    """Show a method: what it does, its fields with their defaults and sources, its cost."""
    from holdfast.api import Attack, Defence
    from holdfast.api.registry import KINDS, find, names, origin

    kinds = [kind for kind in KINDS if name in names(kind)]
    if not kinds:
        every = [known for kind in KINDS for known in names(kind)]
        raise ConfigError(name, "no such method", did_you_mean(name, every))
    for kind in kinds:
        cls = find(kind, name)
        typer.echo(f"{kind} {name} (version {cls.version}, from {origin(kind, name)})")
        typer.echo(f"  {' '.join((cls.__doc__ or '').split())}")
        for label in ("equation", "paper", "cost"):
            if getattr(cls, label, ""):
                typer.echo(f"  {label}: {getattr(cls, label)}")
        if told := getattr(cls, "fidelity", ""):
            # The page is in the repository; an installed package has the sentence alone.
            page = f" (docs/fidelity/{name}.md)" if origin(kind, name) == "holdfast" else ""
            typer.echo(f"  fidelity: {told}{page}")
        for label in ("roles", "needs"):
            values = getattr(cls, label, ())
            if isinstance(values, property):  # its fields decide: tell what the defaults ask for
                values = getattr(cls(), label)
            if values:
                typer.echo(f"  {label}: {', '.join(values)}")
        if issubclass(cls, Defence):
            typer.echo(f"  acts: {cls.when.value}; starts from: {cls.starts_from}")
        if issubclass(cls, Attack):
            typer.echo(f"  needs control of: {cls.control.value}; budget in: {cls.unit}")
        if cls.presets:
            typer.echo(f"  presets: clean, {', '.join(cls.presets)}")
        typer.echo("  fields:" if cls.model_fields else "  no fields")
        for line in _fields(cls, "    "):
            typer.echo(line)


def schema(
    file: Annotated[str, typer.Argument(help="study, or trials.")] = "study",
) -> None:
    """Print the JSON schema of study files or of files of trials, for editors."""
    from holdfast.study.file import Study
    from holdfast.study.trials import Trials

    kinds = {"study": Study, "trials": Trials}
    if file not in kinds:
        raise ConfigError("schema", f"no kind of file '{file}'", did_you_mean(file, kinds))
    typer.echo(json.dumps(kinds[file].model_json_schema(), indent=2))


def doctor() -> None:
    """Say what this machine has, and what is missing."""
    import sys

    from holdfast.api import environment
    from holdfast.api.registry import KINDS, find, names
    from holdfast.nn.files import resolve

    about = environment()
    typer.echo(f"holdfast {__version__}, Python {about['python']} at {sys.executable}")
    typer.echo(f"{about['processor']}, {about['cores']} cores, {about['system']}")
    missing = []
    for name, version in about["versions"].items():
        typer.echo(f"  {name:<14}{version}")
        if version == "not installed" and name != "holdfast":
            missing.append(name)
    if "torch" not in missing:
        import torch

        cuda = torch.cuda.is_available()
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        typer.echo(f"devices: cpu{''.join(f', {name}' for name in devices) if cuda else ''}")
        typer.echo(f"threads: {torch.get_num_threads()} by default, 1 in each worker")
    typer.echo(f"offline: {'yes' if os.environ.get('HF_HUB_OFFLINE') == '1' else 'not asked for'}")
    for spec in ("world:base", "world:instruct"):
        typer.echo(f"{spec}: {resolve(spec).folder}")
    for kind in KINDS:
        for name in names(kind):
            find(kind, name)
    if missing:
        raise ConfigError(
            "doctor", f"not installed: {', '.join(missing)}", "install holdfast with its needs"
        )
    typer.echo("all is well")


COMMANDS: dict[str, Callable[..., Any]] = {
    "ls": ls,
    "show": show,
    "schema": schema,
    "doctor": doctor,
}


def _fields(cls: Any, indent: str) -> Iterator[str]:
    """Give a line for every field: name, default, meaning; groups of fields indented."""
    from holdfast.api.fields import Fields

    for name, info in cls.model_fields.items():
        default = info.default
        if isinstance(default, Fields):
            yield f"{indent}{name}: {' '.join((info.description or '').split())}"
            yield from _values(default, indent + "  ")
            continue
        shown = "required" if info.is_required() else _plain(default)
        yield f"{indent}{name} = {shown}: {' '.join((info.description or '').split())}"


def _values(fields: Any, indent: str) -> Iterator[str]:
    for name, info in type(fields).model_fields.items():
        about = " ".join((info.description or "").split())
        yield f"{indent}{name} = {_plain(getattr(fields, name))}: {about}"


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
