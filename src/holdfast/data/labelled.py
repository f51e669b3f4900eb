"""Answers that people labelled harmful or not: one pair, or a file of them read where it lies."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.api import Exchange, Labelled
from holdfast.data.example import Role, example
from holdfast.data.records import records
from holdfast.data.shapes import Record, cell, meta_of, text_of
from holdfast.errors import DataError

COLUMNS = {"prompt": "prompt", "response": "response", "label": "label"}
"""The columns of a file of labelled answers, where nothing else is said."""
WORDS = {
    "true": True, "yes": True, "1": True, "harmful": True, "unsafe": True,
    "false": False, "no": False, "0": False, "unharmful": False, "harmless": False, "safe": False,
}  # fmt: skip
"""What a label may say; source: the words of BeaverTails, Aegis 2.0 and WildGuardMix."""
PACKAGE = "package:"
"""Before `NAME/PATH`: a file inside an installed package, which is read in place."""


def labelled_pair(
    prompt: str, response: str, harmful: bool, meta: Mapping[str, Any] | None = None
) -> Labelled:
    """Give a labelled answer whose `example_uid` is that of its prompt."""
    uid = example(prompt, role=Role.HARMFUL).uid
    return Labelled(Exchange(uid, None, prompt, "", response, "stop", meta or {}), harmful)


def labelled_file(
    path: Path, columns: Mapping[str, str] | None = None, harmful_from: float | None = None
) -> list[Labelled]:
    """Read a file of labelled answers; `columns` maps `prompt`, `response` and `label`.

    A label is true or false, or one of `WORDS`; with `harmful_from` it is a number, harmful from
    there on. A column `meta` is read as that of a file of answers. Lines of CSV before the header
    that begin with `#` are passed over.

    Raises:
        DataError: the file cannot be read, lacks a column, or a row has no such label.
    """
    at = {**COLUMNS, **(columns or {})}
    found = []
    for number, record in records(path, comments=True):
        where = f"{path}:{number}"
        prompt, response = (
            text_of(_cell(record, name, at[name], where), at[name], where)
            for name in ("prompt", "response")
        )
        label = _cell(record, "label", at["label"], where)
        harmful = _harmful(label, harmful_from, at, where)
        found.append(labelled_pair(prompt, response, harmful, meta_of(record, "meta", where)))
    return found


def _cell(record: Record, name: str, column: str, where: str) -> object:
    return cell(record, column, where, f" (--column {name}=NAME)")


def _harmful(label: object, harmful_from: float | None, at: Mapping[str, str], where: str) -> bool:
    """Read a label; its words are not shown in an error, for they may be a row's text."""
    if harmful_from is None:
        said = WORDS.get(str(label).strip().lower())
        if said is None:
            raise DataError(
                where,
                f"column '{at['label']}' holds no label",
                "write true or false, or give --harmful-from where labels are numbers",
            )
        return said
    try:
        number = float(str(label))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        cause = f"column '{at['label']}' holds no number"
        raise DataError(where, cause, "fill it, or leave out --harmful-from")
    return number >= harmful_from


def place_of(name: str) -> Path:
    """Give the path of a file: as it is, or `package:NAME/PATH` inside an installed package.

    The package is found and not imported: what it depends on need not be there.

    Raises:
        DataError: no such package.
    """
    if not name.startswith(PACKAGE):
        return Path(name)
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders or not inside:
        raise DataError(
            name, f"no package '{package}' is installed", "install it, or give the file's own path"
        )
    return Path(folders[0]) / inside
