"""`holdfast doctor`: say what this machine has."""

from __future__ import annotations

import os
import sys

import typer

from holdfast import __version__
from holdfast.errors import ConfigError


def doctor() -> None:
    """Say what this machine has, and what is missing."""
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
