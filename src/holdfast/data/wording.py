"""A prompt that a judge's authors published: known by its hash, read where they keep it.

The words are theirs and are not in this package. Only their own words make a judge's numbers
comparable with theirs, so what is read is checked against the hash of what was published.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdfast.data.frame import Words
from holdfast.data.records import read_text
from holdfast.errors import ModelError

log = logging.getLogger(__name__)

_QUOTED = re.compile(r"('''|\"\"\")(.*?)\1", re.DOTALL)
"""A text in three quotes, as prompts stand in Python files and in cards."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A published prompt: the SHA-256 of its text in each form that is known, and its places.

    `source` says where its authors keep it. A leading `<s>` is not part of the text: the tokenizer
    writes it.
    """

    sha256: tuple[str, ...]
    places: tuple[str, ...]
    source: str

    def read(self, given: str | None, card: Path, where: str) -> str:
        """Give the prompt's text.

        Args:
            given: a file that holds it: a text file of it alone, or the authors' own Python, JSON
                or Markdown file. A text file with other words is taken too, with a warning.
            card: where it is looked for unless a file is given.
            where: what an error begins with.

        Raises:
            ModelError: there is no such file, or the prompt is not in it.
        """
        path = card if given is None else Path(given)
        if given is None and not card.is_file():
            raise ModelError(where, f"no prompt: there is no {card}", self._todo())
        found = self.find(path)
        if found is not None:
            return found
        text = read_text(path)
        if path.suffix != ".txt":
            raise ModelError(where, f"{path} does not hold the authors' prompt", self._todo())
        lacking = [name for name in self.places if f"{{{name}}}" not in text]
        if lacking:
            raise ModelError(
                where,
                f"the prompt in {path} has no place {{{lacking[0]}}}",
                f"write {{{'}, {'.join(self.places)}}} where the words belong",
            )
        log.warning("%s: %s is not the authors' prompt: numbers are not comparable", where, path)
        return text

    def find(self, path: Path) -> str | None:
        """Give the published text from a file that holds it, None where it does not.

        Raises:
            DataError: there is no such file, or it is no text.
        """
        for one in _texts(read_text(path), path.suffix):
            if hashlib.sha256(one.encode()).hexdigest() in self.sha256:
                return one
        return None

    def _todo(self) -> str:
        return f"write `template: FILE`, a file that holds it; its authors keep it in {self.source}"


def fill(template: str, words: Words) -> str:
    """Put words in their places, `{name}`; what the words themselves spell is no place."""
    names = "|".join(map(re.escape, words))
    return re.sub(rf"\{{({names})\}}", lambda found: words[found[1]], template)


def _texts(text: str, suffix: str) -> Iterator[str]:
    """Give the texts in a file that may be a prompt."""
    for one in (text, text.removesuffix("\n"), *(found[2] for found in _QUOTED.finditer(text))):
        yield one.removeprefix("<s>")
    if suffix == ".json":
        try:
            held = json.loads(text)
        except (ValueError, RecursionError):
            return
        yield from (one for one in _strings(held))


def _strings(held: object) -> Iterator[str]:
    if isinstance(held, str):
        yield held
    elif isinstance(held, dict):
        for one in held.values():
            yield from _strings(one)
