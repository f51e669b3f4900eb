"""Where a checkpoint comes from: what decides it, and on what it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.api import Method
    from holdfast.data.format import Format
    from holdfast.data.tokens import Encoder
    from holdfast.nn.files import ModelFiles


def decides(
    files: ModelFiles,
    method: Method,
    asked: Format,
    seed: int,
    content: list[str],
    original: ModelFiles | None = None,
) -> dict[str, Any]:
    """Give what decides a run's result: two runs with the same are one."""
    found = {
        "method": method.identity(),
        "weights": files.identity(),
        "format": asked.identity(),
        "seed": seed,
        "sources": content,
    }
    return found if original is None else found | {"original": original.identity()}


def provenance(
    files: ModelFiles,
    about: dict[str, Any],
    coder: Encoder,
    threads: int,
    device: str,
    dtype: str,
    original: ModelFiles | None,
) -> dict[str, Any]:
    """Give where a checkpoint comes from, and on what it was made.

    Raises:
        ModelError: the files are not those that were found.
    """
    from holdfast import __version__
    from holdfast.api import environment
    from holdfast.engine.provenance import git_commit
    from holdfast.nn.content import content
    from holdfast.nn.history import history

    told: dict[str, Any] = {"made_by": "holdfast", "version": __version__, "commit": git_commit()}
    if original is not None:
        told["original"] = {"model": original.spec, "content": content(original)}
    return told | {
        "model": files.spec,
        "format": about["format"]["format"],
        "format_identity": about["format"],
        "sample_prompt": coder.sample,
        "append_eos": coder.format.append_eos,
        "seed": about["seed"],
        "input": about["weights"],
        "content": content(files),
        "dtype": dtype,
        "sources": about["sources"],
        "device": device,
        "environment": environment(threads),
        "history": history(files.folder),
    }
