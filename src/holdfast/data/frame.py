"""A judge's prompt: fixed words around those that are judged, which cannot pass for the fixed ones.

What a model answered may spell the judge's own delimiters: `</s>`, `[/INST]`, a line `Answer:`.
Special tokens stay text (`holdfast.data.guard`), and what the fixed words mark by plain text gets
a space inside, so that a reader still sees what was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.data.guard import Guard

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

Words = Mapping[str, str]
"""What is judged, by the name of its place in the prompt."""

_TAG = re.compile(r"<<?/?[A-Z]+>>?|\[/?[A-Z]+\]:?|<\|[a-z_]+\|>|<[A-Z]+(?: [A-Z]+)+>|\b[A-Z]{4,}:")
"""Marks that a prompt sets its parts apart by, wherever they stand in a line."""

MARK = "\ue000"
"""Stands for judged words while the fixed ones are looked at: a character of nobody's."""


@dataclass(frozen=True, slots=True)
class Coded:
    """A judge's prompt as ids. `note` says in a few words what was done to the answer."""

    ids: tuple[int, ...]
    note: str = ""


class Delimiters:
    """The delimiters of a judge's fixed words that are plain text, and how judged words lose them.

    Args:
        fixed: the fixed words, with `MARK` where the judged ones belong.
        spared: delimiters that are left alone: special tokens, which are coded as text anyhow.
        more: further delimiters.
    """

    def __init__(
        self, fixed: str, *, spared: Container[str] = (), more: Iterable[str] = ()
    ) -> None:
        tags = {tag for tag in (*_TAG.findall(fixed), *more) if tag not in spared}
        heads = {head for line in fixed.splitlines() if (head := _head(line))}
        self._tags = re.compile("|".join(map(re.escape, sorted(tags))) or "(?!)")
        self._heads = re.compile(
            rf"^([ \t]*)({'|'.join(map(re.escape, sorted(heads))) or '(?!)'}):",
            re.MULTILINE | re.IGNORECASE,
        )

    def defused(self, text: str) -> str:
        """Give judged words in which no delimiter is left: each has a space inside."""
        text = self._tags.sub(lambda found: _apart(found[0]), text)
        return self._heads.sub(r"\1\2 :", text)


class Frame:
    """Codes judged words inside a judge's fixed ones.

    Args:
        tokenizer: the judge's, a fast one.
        render: makes a text of the judged words, which it places as they are.
        places: the names of the judged words that `render` needs.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        render: Callable[[Words], str],
        places: tuple[str, ...],
    ) -> None:
        self._tokenizer, self._render = tokenizer, render
        self._guard = Guard(tokenizer)
        self._places_of = places
        fixed = render(dict.fromkeys(places, MARK))
        bos = tokenizer.bos_token
        self._begins = not (bos and fixed.startswith(bos))
        self._delimiters = Delimiters(fixed, spared=self._guard.names)

    def code(
        self,
        words: Words,
        answer: str,
        *,
        longest: int,
        answer_tokens: int | None = None,
        last: bool = False,
    ) -> Coded | None:
        """Give a prompt's ids, with the answer cut where it is too long; None where that is vain.

        Args:
            answer: the place of the answer, the only words that are ever cut.
            longest: most tokens of the whole prompt.
            answer_tokens: most tokens of the answer.
            last: whether the answer's last tokens are kept, not its first.
        """
        safe = {name: self._delimiters.defused(text) for name, text in words.items()}
        notes = ["delimiters in it were made text"] if safe != dict(words) else []
        whole = safe[answer]
        places = self._places(whole)
        kept = len(places) if answer_tokens is None else min(answer_tokens, len(places))
        ids = self._ids(safe | {answer: _part(whole, places, kept, last)})
        while len(ids) > longest:
            kept -= len(ids) - longest
            if kept <= 0:
                return None
            ids = self._ids(safe | {answer: _part(whole, places, kept, last)})
        if kept < len(places):
            end = "last" if last else "first"
            notes.append(f"the {end} {kept} of its {len(places)} tokens were read")
        return Coded(tuple(ids), "; ".join(notes))

    def ends_with(self, token: int) -> bool:
        """Say whether a prompt's last token is this one, whatever is judged."""
        return self._ids(dict.fromkeys(self._places_of, "x"))[-1] == token

    def _ids(self, words: Words) -> list[int]:
        if any(self._guard.spells(text) for text in words.values()):
            hidden = {name: self._guard.hide(text) for name, text in words.items()}
            text = self._guard.show(self._render(hidden))
            return list(self._guard.twin.encode(text, add_special_tokens=self._begins).ids)
        text = self._render(words)
        return list(self._tokenizer(text, add_special_tokens=self._begins)["input_ids"])

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Give where each token of an answer begins and ends in it."""
        coded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(coded["offset_mapping"])


def _part(text: str, places: list[tuple[int, int]], kept: int, last: bool) -> str:
    if kept >= len(places):
        return text
    return text[places[-kept][0] :] if last else text[: places[kept - 1][1]]


def _apart(tag: str) -> str:
    """Give a delimiter with a space inside."""
    return f"{tag[:-1]} :" if tag.endswith(":") else f"{tag[0]} {tag[1:]}"


def _head(line: str) -> str:
    """Give the words before the colon of a line that begins a part of the prompt, if it does."""
    before = _TAG.sub("", line.partition(MARK)[0]).strip()
    return before[:-1] if before.endswith(":") else ""
