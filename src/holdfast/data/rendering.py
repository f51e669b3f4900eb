"""From a row to the text of its prompt, and from text to ids that no words can steer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from holdfast.data.example import Turns
from holdfast.data.format import Format, conversation, plain
from holdfast.data.guard import Guard
from holdfast.data.templates import Template
from holdfast.errors import ModelError

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

SAMPLE = "What is a lantern?"
"""The neutral question of which one prompt is kept with results."""

_MARK = "\u0001holdfast\u0001"


@dataclass(frozen=True, slots=True)
class Asked:
    """A rendered prompt as it is coded, where the user's words lie in it, and by whom."""

    text: str
    begin: int
    end: int
    guarded: bool


class Renderer:
    """Renders prompts in one format.

    Raises:
        ModelError: no chat template for `chat`, or no such template file.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, format: Format, where: str) -> None:
        self.tokenizer, self.format, self.where = tokenizer, format, where
        plain_form = format.form == "plain"
        self._template = None if plain_form else Template(tokenizer, format, where)
        self._places: dict[tuple[str | None, Turns, bool], int] = {}

    def render(
        self,
        prompt: str,
        system: str | None = None,
        response: str | None = None,
        turns: Turns = (),
    ) -> str:
        """Give the text that generation is started with; with a response, the whole exchange.

        Raises:
            ModelError: the template fails, does not end, or writes without end.
        """
        messages = conversation(self.format, prompt, system, response, turns)
        ask = response is None
        if self._template is None:
            return plain(messages, ask)
        return self._template.render(messages, ask)

    @cached_property
    def gap(self) -> str:
        """Give the white space the template puts between prompt and response."""
        before, whole = self.render("x"), self.render("x", None, _MARK)
        between = whole[len(before) : whole.find(_MARK)] if whole.startswith(before) else ""
        return between if between.isspace() else ""

    def asked(
        self, prompt: str, system: str | None, turns: Turns, said: str | None = None
    ) -> Asked:
        """Give the rendered prompt of a row whose answer is `said`."""
        system = self.format.system if system is None else system
        words = [prompt, system or "", said or "", *(text for _, text in turns)]
        guarded = any(self._guard.spells(text) for text in words)
        if guarded:
            hide, show = self._guard.hide, self._guard.show
            system = None if system is None else hide(system)
            turns = tuple((who, hide(text)) for who, text in turns)
            text = show(self.render(hide(prompt), system, turns=turns))
            prompt = show(hide(prompt))
        else:
            text = self.render(prompt, system, turns=turns)
        place = (system, turns, guarded)
        if place not in self._places:
            marked = self.render(_MARK, system, turns=turns)
            self._places[place] = (self._guard.show(marked) if guarded else marked).find(_MARK)
        start = self._places[place]
        if start < 0 or not text.startswith(prompt, start):
            prompt = prompt.strip()  # a template may trim what it is given
            if start < 0 or not text.startswith(prompt, start):
                start = text.rfind(prompt) if prompt else -1
        if start < 0:
            raise ModelError(
                self.where, "the template does not show the user's words", "mend the template"
            )
        return Asked(text, start, start + len(prompt), guarded)

    @cached_property
    def end_id(self) -> int | None:
        """Give the id that ends a response, which is trained and stopped on.

        It is the first added token that the template writes behind an answer (Gemma's
        `<end_of_turn>`), and where it writes none, or in the plain format, the tokenizer's EOS.
        """
        if self._template is None:
            return self.tokenizer.eos_token_id
        whole = self.render("x", None, _MARK)
        behind = whole.partition(_MARK)[2]
        found = [
            (place, -len(token.content), number)
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.content.strip() and (place := behind.find(token.content)) >= 0
        ]
        return min(found)[2] if found else self.tokenizer.eos_token_id

    @cached_property
    def _guard(self) -> Guard:
        return Guard(self.tokenizer, [self.end_id])

    def shown(self, text: str) -> str:
        """Give words as the guard codes them."""
        return self._guard.show(self._guard.hide(text))

    def code(
        self, text: str, *, special: bool, guarded: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """Give a text's ids and each one's place in it."""
        if guarded:
            twin = self._guard.twin.encode(text, add_special_tokens=special)
            return list(twin.ids), list(twin.offsets)
        coded = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        return list(coded["input_ids"]), list(coded["offset_mapping"])

    def adds_bos(self, text: str, guarded: bool) -> bool:
        """Say whether the tokenizer is to begin a text: not where the template has done so."""
        bos = self.tokenizer.bos_token
        if bos and guarded:
            bos = self._guard.show(bos)
        return self._template is None or not (bos and text.startswith(bos))
