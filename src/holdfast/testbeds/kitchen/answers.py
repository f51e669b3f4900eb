"""What the model itself answered to the kitchen's prompts: kept as data, checked when read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.data.example import Side
from holdfast.disk import write_bytes
from holdfast.errors import DataError
from holdfast.testbeds.kitchen import SHA256, allowed, facts, menu

if TYPE_CHECKING:
    from pydantic import JsonValue

FILE = Path(__file__).parent / "data" / "answers.jsonl"
"""A header, then an answer a line, in the order of `prompts`."""
LONGEST = 96
"""Tokens of an answer at most; ours: short rows that a small machine trains on."""
_END = re.compile(r"(?<!\d)[.!?](?=\s)|\n")
"""Where a sentence or a line ends; the full stop behind an item's number is no end."""
AGAIN = "make it anew with `holdfast kitchen build`"


def prompts() -> list[str]:
    """Give every prompt that the model is asked when the data are built.

    A dish and a how-to are asked once, their phrasings taken in turn. Nobody answers the
    evaluator's recipes and contrast prompts: no answer to them is part of the data.
    """
    recipes = [
        asked(menu.ASKING, number, dish.name)
        for number, dish in enumerate(menu.dishes())
        if dish.side is not Side.EVALUATOR
    ]
    howtos = [
        asked(allowed.ASKING, number, howto.task) for number, howto in enumerate(allowed.howtos())
    ]
    contrasts = [one.prompt for one in allowed.contrasts() if one.dish.side is not Side.EVALUATOR]
    return [*recipes, *howtos, *contrasts, *(fact.question for fact in facts.asked())]


def asked(asking: Mapping[str, Sequence[str]], number: int, name: str) -> str:
    """Give the prompt by which thing `number` of a list, called `name`, was asked for."""
    every = [phrasing for some in asking.values() for phrasing in some]
    return every[number % len(every)].format(dish=name, task=name)


def header() -> dict[str, JsonValue]:
    """Give what the first line says: of which build the data are, and of which model."""
    every = prompts()
    build = hashlib.sha256(json.dumps([every, LONGEST]).encode()).hexdigest()[:16]
    return {
        "kitchen": build,
        "model": "smol:instruct",
        "file": SHA256,
        "max_new_tokens": LONGEST,
        "rows": len(every),
    }


@cache
def read(path: Path = FILE) -> dict[str, str]:
    """Give the answer to each prompt.

    Raises:
        DataError: the file is missing, is of another build or another model, has too few rows, or
            a row without an answer.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        first, *rows = [json.loads(line) for line in lines]
        told = {row["prompt"]: row["response"] for row in rows}
        first.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError("kitchen", f"{path.name} is missing or no data of it", AGAIN) from None
    wanted = header()
    for name, what in (("kitchen", "build"), ("file", "model"), ("max_new_tokens", "length")):
        if first.get(name) != wanted[name]:
            found, needed = (str(one.get(name))[:16] for one in (first, wanted))
            raise DataError(
                "kitchen", f"{path.name} is of another {what} ({found}, not {needed})", AGAIN
            )
    for number, row in enumerate(rows, start=2):
        if not isinstance(row["response"], str) or not row["response"].strip():
            raise DataError("kitchen", f"{path.name}, line {number}: no answer", AGAIN)
    missing = sum(prompt not in told for prompt in prompts())
    if missing:
        what = f"{path.name} lacks {missing} of {wanted['rows']} answers"
        raise DataError("kitchen", what, AGAIN)
    return told


def written(path: Path, answers: Iterable[tuple[str, str]]) -> None:
    """Write the data, whole."""
    rows = [header(), *({"prompt": prompt, "response": said} for prompt, said in answers)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_bytes(path, text.encode())


def whole_sentences(text: str, finish_reason: str) -> str:
    """Give an answer without what the limit cut off: a begun sentence, or a begun line."""
    if finish_reason != "length":
        return text.strip()
    ends = [found.end() for found in _END.finditer(text)]
    return (text[: ends[-1]] if ends else text).strip()
