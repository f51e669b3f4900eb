"""The `--device` option, refused before anything runs where there is no such device."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from holdfast.errors import ConfigError


def known(device: str) -> str:
    """Give a device's name back.

    Raises:
        ConfigError: another word than cpu, cuda or cuda:N, or one this machine does not have.
    """
    if device == "cpu":
        return device
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise ConfigError("--device", f"no device '{device}'", "use cpu, cuda or cuda:N")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(device.partition(":")[2] or 0) >= count:
        there = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0" if count else "none"
        raise ConfigError(
            "--device", f"'{device}' is not there (CUDA devices torch sees: {there})",
            "use cpu, or see `holdfast doctor`",
        )  # fmt: skip
    return device


Device = Annotated[str, typer.Option("--device", callback=known, help="cpu, cuda or cuda:N.")]
