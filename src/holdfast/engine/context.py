"""Whether every prompt and answer of what is left of a study fits into its model's context.

Bytes are counted first, without a tokenizer: a token holds one or more. A template is a program, so
it is run on every row to count what it writes. Only where they are too many, or the template fails,
is the tokenizer loaded, and rows are coded as the run will code them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.api import Attack, Chain, EvalPurpose, Method, PromptAttack, TrainedAttack
from holdfast.data.benchmarks import Document, load
from holdfast.data.example import Example, Side
from holdfast.data.format import Format, conversation
from holdfast.data.pool import Pool
from holdfast.data.records import read_text
from holdfast.data.templates import Unloaded
from holdfast.data.tokens import SLACK, Encoder, load_tokenizer
from holdfast.errors import DataError
from holdfast.nn.memory import shape
from holdfast.study.checks import own_template
from holdfast.study.drawing import drawn
from holdfast.study.keys import digest
from holdfast.study.nodes import Start
from holdfast.study.plan import Plan

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

Todo = tuple[str, Start, Method | None, int]
"""A step that is left: its label, its model, the method (None: it is only asked), the seed."""

TURN = len("Assistant: \n")
"""Bytes that the plain format writes around one turn, at most."""


def check_context(plan: Plan, todo: Iterable[Todo]) -> None:
    """Refuse what a model has no room or no embedding for, before any weight is read.

    Raises:
        DataError: in one line, with the set or method, the row, its tokens and the context.
        ModelError: a template fails on a row, or does not show its words.
    """
    rooms: dict[str, _Room] = {}
    longest = {id(pool): _longest(pool) for pool in (plan.pool, plan.attack_pool)}
    seen: set[str] = set()

    def room(start: Start, form: Format) -> _Room:
        same = digest([start.key, form.identity()])
        if same not in rooms:
            rooms[same] = _Room(start, form)
        return rooms[same]

    for label, start, method, seed in todo:
        attacks = isinstance(method, Attack)
        if method is not None and hasattr(method, "rows"):
            pool = plan.attack_pool if attacks else plan.pool
            here = room(start, start.attack_format if attacks else start.format)
            words = longest[id(pool)] + _own_words(method.identity())
            if here.template is not None or not here.holds(words):
                for row in _trained(method, pool, seed):
                    here.check(row, label)
        if method is None or attacks:
            by = method if isinstance(method, PromptAttack) else None
            same = digest([start.key, start.evaluation_format.identity(), by and by.identity()])
            if same not in seen:
                seen.add(same)
                _check_asked(plan, room(start, start.evaluation_format), by)


def _check_asked(plan: Plan, room: _Room, by: PromptAttack | None) -> None:
    """Check every prompt set, as an attack by prompt asks it where there is one."""
    answer = plan.study.generation.max_new_tokens
    for prompts in plan.prompts:
        where = f"evaluation set '{prompts.set.name}'"
        if by is not None and (prompts.set.purpose is not EvalPurpose.HARM or prompts.way):
            continue
        if prompts.benchmarked:
            room.check_documents([Document(**row.known.lm_eval) for row in prompts.rows], where)
            continue
        for row in prompts.rows:
            if prompts.chosen:
                for option in row.known.options:
                    room.check(replace(row, response=option), where)
                continue
            system, prefill = by.ask(row) if by is not None else (row.system, "")
            if by is None and prompts.way is not None:
                row, prefill = prompts.way.ask(row), prompts.way.prefill
                system = row.system
            asked = replace(row, system=system, response=None)
            room.check(asked, where if by is None else f"{by.name()}: {where}", answer, prefill)


def _trained(method: Any, pool: Pool, seed: int) -> Iterator[Example]:  # noqa: ANN401  (has rows)
    """Give the rows a method reads, without the answers where it reads none."""
    reads = not isinstance(method, Attack) or isinstance(method, TrainedAttack | Chain)
    for rows in drawn(method, pool, seed).values():
        yield from rows if reads else (replace(row, response=None) for row in rows)


class _Room:
    """What one model can take in one format."""

    def __init__(self, start: Start, form: Format) -> None:
        self.start, self.format = start, form
        of = shape(start.files)
        self.context, self.vocabulary = of.context, of.vocabulary or None
        outside = of.vocabulary and _ids(start.files.folder) > of.vocabulary
        # A row with an id outside is only found by coding every row.
        self.limit = -1 if outside else self.context
        self.template = _template(start.files.folder, form)
        self._seen: set[tuple[object, ...]] = set()
        self.frame = 3 * TURN + len((form.system or "").encode())
        self._coder: Encoder | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def holds(self, words: int, turns: int = 0) -> bool:
        """Say whether words of so many bytes surely fit, put together in the plain way."""
        return self.limit is None or words + self.frame * (1 + turns) + SLACK <= self.limit

    def takes(self, row: Example, more: int) -> bool:
        """Say whether a row and so many bytes behind it surely fit, as the format writes it."""
        more += len((row.response or "").encode())
        if self.template is None:
            return self.holds(_asked(row) + more, len(row.turns))
        said = conversation(self.format, row.prompt, row.system, turns=row.turns)
        text = self.template.written(said)
        if text is None or row.prompt.strip() not in text:
            return False
        return self.limit is None or len(text.encode()) + more + SLACK <= self.limit

    def check(self, row: Example, where: str, answer: int = 0, prefill: str = "") -> None:
        """Refuse a row that does not fit, with its answer or with room for one."""
        same = (row.system, row.turns, row.prompt, row.response, answer, prefill)
        if same in self._seen:
            return
        if self.takes(row, len(prefill.encode()) + answer):
            self._seen.add(same)
            return
        if self._coder is None:
            place = f"model '{self.start.name}'"
            tokenizer = load_tokenizer(self.start.files.folder, place)
            self._coder = Encoder(tokenizer, self.format, embeddings=self.vocabulary, where=place)
        coder = self._coder
        coder.max_length, coder.answer, coder.where = self.context, answer, where
        if row.response is not None:
            coder.row(row)
        else:
            coder.begun(row, prefill)
        self._seen.add(same)

    def check_documents(self, documents: Sequence[Document], where: str) -> None:
        """Refuse one of a benchmark's documents that does not fit, with its examples and answer."""
        first, *_ = documents
        of = load(first.benchmark, first.shots, first.folder)
        for document, asks in zip(documents, of.requests(documents), strict=True):
            for asked, answer, tokens in asks:
                if self.holds(len((asked + answer).encode()) + tokens, 2 * document.shots):
                    continue
                coded = len(self._code(asked + answer)) + tokens
                if self.context is not None and coded > self.context:
                    raise DataError(
                        where,
                        f"document {document.place} of task '{document.task}' is {coded} tokens "
                        f"with its examples and its answer, the model takes {self.context}",
                        "set fewer shots, or draw other documents",
                    )

    def _code(self, text: str) -> list[int]:
        """Give a text's ids, without a chat template."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.start.files.folder, f"model '{self.start.name}'")
        return self._tokenizer.encode(text)


def _asked(row: Example) -> int:
    said = (row.system or "", row.prompt, *(text for _, text in row.turns))
    return sum(len(text.encode()) for text in said)


def _longest(pool: Pool) -> int:
    """Give the bytes of the longest prompt and the longest answer, which a method may join."""
    rows: Sequence[Example] = [row for side in Side for row in pool.rows(side)]
    said = [len((row.response or "").encode()) for row in rows]
    asked = [_asked(row) + TURN * len(row.turns) for row in rows]
    return max(asked, default=0) + max(said, default=0)


def _own_words(data: object) -> int:
    """Give the bytes of the sentences among a method's fields: it may put them into its rows."""
    if isinstance(data, dict):
        return sum(_own_words(value) for value in data.values())
    if isinstance(data, list | tuple):
        return sum(map(_own_words, data))
    return len(data.encode()) if isinstance(data, str) and " " in data else 0


def _template(folder: Path, form: Format) -> Unloaded | None:
    """Give the template that writes a format's prompts; the plain format has none."""
    if form.form == "plain":
        return None
    text = own_template(folder) if form.form == "chat" else read_text(Path(form.form))
    return Unloaded(text, form)


def _ids(folder: Path) -> int:
    """Give the number of ids up to a tokenizer's last."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return max(tokenizer.get_vocab().values(), default=-1) + 1
    except Exception:  # the library raises no class of its own; whoever codes with it says so
        return 0
