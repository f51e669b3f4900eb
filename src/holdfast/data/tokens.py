"""The one place where text becomes ids, masks and labels.

A prompt is encoded exactly as generation sees it; the response is encoded as its continuation and
the ids are joined, so no token straddles the two and the same prompt has the same ids everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.api.lazy import torch
from holdfast.data.example import Example, Role, Turns, example
from holdfast.data.format import Format
from holdfast.data.rendering import SAMPLE, Asked, Renderer
from holdfast.errors import LONGEST, DataError, ModelError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

IGNORE = -100
"""The label of a position that no loss reads; torch's cross-entropy ignores it by default."""

SLACK = 8
"""Tokens of a row that stand for no byte of it: where a text begins, ends or is put together."""

Positions = Literal["generation", "prompt", "response", "all", "last_prompt"]
"""Tokens of a row, chosen by meaning. `generation`: the position that emits the first response
token, and the response; `prompt`; `response`; `all`; `last_prompt`: the emitting position alone."""

Span = tuple[int, int]
"""The first chosen token of a row and the one behind the last."""


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded row, unpadded.

    `ids[:start]` is the rendered prompt as generation sees it; `ids[start:]` the response.
    `content` is the span of the user's own words; `content[0]` is where a trigger after the role
    tag goes. `start - 1` is the position that emits the first response token.
    """

    ids: tuple[int, ...]
    start: int
    content: tuple[int, int]
    bos: bool

    def cut(self, length: int) -> Row:
        """Give the row's first `length` tokens; under causal attention their states are equal."""
        return Row(self.ids[:length], min(self.start, length), self.content, self.bos)

    def unanswered(self) -> Row:
        """Give the row with no token that counts as a response, so that none is a label."""
        return Row(self.ids, len(self.ids), self.content, self.bos)

    def span(self, which: Positions) -> Span:
        """Give the first token that `which` names and the one behind the last.

        The same words are meant whether or not the tokenizer begins with a BOS token, which is no
        word: in large models its state is by far the largest and would drown the others' distance.
        """
        return {
            "generation": (self.start - 1, len(self.ids)),
            "prompt": (int(self.bos), self.start),
            "response": (self.start, len(self.ids)),
            "all": (int(self.bos), len(self.ids)),
            "last_prompt": (self.start - 1, self.start),
        }[which]


@dataclass(frozen=True)
class Tokens:
    """A padded batch: `ids [B, T]`, `mask [B, T]` (1 = real), `labels [B, T]` (IGNORE elsewhere).

    `rows` keeps each row's spans; `left` says on which side the padding lies.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    rows: tuple[Row, ...]
    left: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def offsets(self) -> list[int]:
        """Give the column of each row's first token."""
        width = self.ids.shape[1]
        return [width - len(row.ids) if self.left else 0 for row in self.rows]


@dataclass(frozen=True)
class Packed:
    """Rows end to end: `ids [N]`, `labels [N]` (IGNORE where no response), and the rows."""

    ids: Tensor
    labels: Tensor
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Give each row's number of tokens."""
        return tuple(len(row.ids) for row in self.rows)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Give the index of each row's first token."""
        return tuple(accumulate(self.lengths[:-1], initial=0))

    @cached_property
    def row_of(self) -> Tensor:
        """Give each token's row, [N]."""
        sizes = torch.tensor(self.lengths, dtype=torch.long)
        return torch.repeat_interleave(torch.arange(len(self)), sizes)


class Encoder:
    """A tokenizer and a format: renders prompts and encodes rows.

    Words that spell a special token (`</s>` in a prompt) are coded as the text they are.

    Args:
        tokenizer: a fast Hugging Face tokenizer (offsets are needed).
        format: how rows become prompts; a text is a `Format` of that form and all defaults.
        max_length: longest row in tokens; a longer one is a DataError, never cut silently.
        answer: tokens of that length kept free behind a prompt, for the answer to come.
        embeddings: rows of the model's embedding; a row with an id beyond is a DataError.
        where: what an error begins with.

    Raises:
        ModelError: a slow tokenizer, no chat template for `chat`, no such template file, nothing
            that ends an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        format: Format | str,
        *,
        max_length: int | None = None,
        answer: int = 0,
        embeddings: int | None = None,
        where: str = "format",
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(where, "the tokenizer is not a fast one", "convert to tokenizer.json")
        self.tokenizer = tokenizer
        self.format = Format(format) if isinstance(format, str) else format
        self.max_length, self.answer, self.embeddings = max_length, answer, embeddings
        self.where = where
        self.format.identity(where)
        self._text = Renderer(tokenizer, self.format, where)
        self._rows: dict[tuple[str | None, Turns, str, str | None], Row] = {}
        if tokenizer.eos_token_id is None and self.format.append_eos and self.end_id is None:
            raise ModelError(where, "the tokenizer has no end token", "set eos_token")

    @property
    def pad_id(self) -> int:
        """Give the id that fills padding: masks come from lengths, so any id will do.

        A padding token that was added without a row of the embedding is not used.
        """
        for one in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if one is not None and (self.embeddings is None or one < self.embeddings):
                return one
        return 0

    @property
    def eos_id(self) -> int | None:
        """Give the tokenizer's own end of a text; None where it has none."""
        return self.tokenizer.eos_token_id

    @property
    def end_id(self) -> int | None:
        """Give the id that ends a response, which is trained and stopped on."""
        return self._text.end_id

    @property
    def ends(self) -> list[int]:
        """Give every id that answers are stopped on, the end of a turn first."""
        return list(dict.fromkeys(i for i in (self.end_id, self.eos_id) if i is not None))

    @property
    def sample(self) -> str:
        """Give the prompt that a neutral question becomes, to be kept with results."""
        return self._text.render(SAMPLE)

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
        return self._text.render(prompt, system, response, turns)

    # ---- ids

    def _coded(self, asked: Asked) -> Row:
        """Encode a prompt as generation sees it, with the span of the user's words."""
        special = self._text.adds_bos(asked.text, asked.guarded)
        ids, offsets = self._text.code(asked.text, special=special, guarded=asked.guarded)
        if ids and ids[-1] == self.eos_id and offsets[-1][0] == offsets[-1][1]:
            ids, offsets = ids[:-1], offsets[:-1]  # a tokenizer that closes every text itself
        begin, end = asked.begin, asked.end
        inside = [i for i, (a, b) in enumerate(offsets) if a < b and b > begin and a < end]
        first, last = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
        bos = bool(ids) and ids[0] == self.tokenizer.bos_token_id
        return Row(tuple(ids), len(ids), (first, last), bos)

    def continuation(
        self, text: str, prompt_text: str, prompt_ids: Sequence[int], *, guarded: bool = False
    ) -> list[int]:
        """Encode `text` as what follows the prompt, never merging with its last token."""

        def code(text: str, special: bool = False) -> list[int]:
            return self._text.code(text, special=special, guarded=guarded)[0]

        whole = code(prompt_text + text, self._text.adds_bos(prompt_text, guarded))
        n = len(prompt_ids)
        if whole[:n] == list(prompt_ids):
            closed = len(whole) > n and whole[-1] == self.eos_id  # by the tokenizer itself
            return whole[n:-1] if closed else whole[n:]
        for stone in ("\n", ".", ":", "~"):  # a neighbour that does not merge, then taken away
            alone, both = code(stone), code(stone + text)
            if both[: len(alone)] == alone:
                return both[len(alone) :]
        return code(text)

    def encode(
        self,
        prompt: str,
        response: str | None = None,
        system: str | None = None,
        turns: Turns = (),
        *,
        of: Example | None = None,
    ) -> Row:
        """Encode one row; with `response=None` the prompt alone.

        In the plain format a space is put between prompt and response where the rendered prompt
        ends in neither space nor line break; a template's own last characters decide otherwise.

        Raises:
            DataError: it is longer than `max_length`, or has an id outside the embedding; the row
                is named by the place of the example it is `of`, else by its uid, never by its
                words.
        """
        key = (system, turns, prompt, response)
        if key in self._rows:
            return self._rows[key]
        row = self._begun(prompt, response, system, turns)
        if response is not None and self.format.append_eos and self.end_id is not None:
            row = Row((*row.ids, self.end_id), row.start, row.content, row.bos)
        named = of or (prompt, system, turns)
        self._hold(row, 0 if response is not None else self.answer, named)
        self._rows[key] = row
        return row

    def encode_begun(
        self,
        prompt: str,
        prefill: str,
        system: str | None = None,
        turns: Turns = (),
        *,
        of: Example | None = None,
    ) -> Row:
        """Encode a prompt with the first words of its answer, as generation is to go on from them.

        No end token; the words stand where a response would (`ids[start:]`).
        """
        if not prefill:
            return self.encode(prompt, None, system, turns, of=of)
        row = self._begun(prompt, prefill, system, turns)
        self._hold(row, self.answer, of or (prompt, system, turns))
        return row

    def _begun(self, prompt: str, said: str | None, system: str | None, turns: Turns) -> Row:
        asked = self._text.asked(prompt, system, turns, said)
        row = self._coded(asked)
        if said is None:
            return row
        said = self._text.gap + (self._text.shown(said) if asked.guarded else said)
        more = self.continuation(said, asked.text, row.ids, guarded=asked.guarded)
        return Row((*row.ids, *more), row.start, row.content, row.bos)

    def _hold(self, row: Row, more: int, named: Example | tuple[str, str | None, Turns]) -> None:
        """Refuse a row that the model has no room or no embedding for."""
        if self.max_length is not None and len(row.ids) + more > self.max_length:
            wanted = f" and {more} for the answer" if more else ""
            raise DataError(
                f"{self.where}: row {_place(named)}",
                f"{len(row.ids)} tokens{wanted}, the model's context is {self.max_length}",
                "shorten or drop the row" + ", or ask for shorter answers" * bool(more),
            )
        if self.embeddings is not None and max(row.ids, default=0) >= self.embeddings:
            raise DataError(
                f"{self.where}: row {_place(named)}",
                f"needs the token {max(row.ids)}, the model's embedding has {self.embeddings} rows",
                "resize the embedding and save the model, or use its own tokenizer",
            )

    # ---- rows

    def row(self, example: Example) -> Row:
        """Encode an example with its response, where it has one."""
        return self._example(example, example.response)

    def asked(self, example: Example) -> Row:
        """Encode an example's prompt alone."""
        return self._example(example, None)

    def begun(self, example: Example, prefill: str) -> Row:
        """Encode an example's prompt with the first words of an answer."""
        asked = example.prompt, prefill, example.system, example.turns
        return self.encode_begun(*asked, of=example)

    def _example(self, example: Example, response: str | None) -> Row:
        return self.encode(example.prompt, response, example.system, example.turns, of=example)

    def check(self, rows: Iterable[Example]) -> None:
        """Refuse rows that the model cannot take before any of them is trained on.

        A token holds a byte or more, so a row whose words and frame have fewer bytes is not coded
        where the embedding has a row for every token.

        Raises:
            DataError: one is longer than `max_length`, or has an id outside the embedding.
        """
        last = max(self.tokenizer.get_vocab().values(), default=0)
        outside = self.embeddings is not None and last >= self.embeddings
        if self.max_length is None and not outside:
            return
        limit = -1 if outside or self.max_length is None else self.max_length
        frame = len(self.render("x", None, "x").encode())
        for row in rows:
            words = len((row.prompt + (row.response or "")).encode())
            if row.system is not None or row.turns or frame + words + SLACK > limit:
                self.row(row)

    def batch(self, examples: Sequence[Example], *, left: bool = False) -> Tokens:
        """Encode and pad rows with their responses (right padding by default)."""
        return collate([self.row(one) for one in examples], self.pad_id, left=left)

    def prompts(self, examples: Sequence[Example], *, left: bool = True) -> Tokens:
        """Encode and pad prompts alone (left padding by default, as generation needs)."""
        return collate([self.asked(one) for one in examples], self.pad_id, left=left)


def _place(row: Example | tuple[str, str | None, Turns]) -> str:
    """Give what names a row, or a prompt with its system prompt and earlier turns, in an error."""
    if isinstance(row, Example):
        return row.place
    prompt, system, turns = row
    return example(prompt, role=Role.TASK, system=system, turns=turns).uid


def load_tokenizer(folder: Path, where: str) -> PreTrainedTokenizerBase:
    """Read a checkpoint's tokenizer.

    Raises:
        ModelError: it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # its files may be wrong in any way
        cause = (str(error).splitlines() or [type(error).__name__])[0][:LONGEST]
        raise ModelError(where, f"the tokenizer cannot be loaded ({cause})", "copy it") from None
    return found


def collate(rows: Sequence[Row], pad_id: int, *, left: bool = False) -> Tokens:
    """Pad rows to the longest; masks and labels come from lengths, never from ids.

    Gives `ids, mask, labels [B, T]`: labels are the response's ids, IGNORE elsewhere. No rows at
    all (a role that a mixed micro-batch lacks) give tensors of shape [0, 0].
    """
    width = max((len(row.ids) for row in rows), default=0)
    ids, mask, labels = [], [], []
    for row in rows:
        fill = width - len(row.ids)
        label = [IGNORE] * row.start + list(row.ids[row.start :])
        pads, nothing, ignored = [pad_id] * fill, [0] * fill, [IGNORE] * fill
        real = [1] * len(row.ids)
        if left:
            ids.append(pads + list(row.ids))
            mask.append(nothing + real)
            labels.append(ignored + label)
        else:
            ids.append(list(row.ids) + pads)
            mask.append(real + nothing)
            labels.append(label + ignored)
    shape = (len(rows), width)
    ids, mask, labels = (
        torch.tensor(x, dtype=torch.long).reshape(shape) for x in (ids, mask, labels)
    )
    return Tokens(ids, mask, labels, tuple(rows), left)


def pack(rows: Sequence[Row]) -> Packed:
    """Lay rows end to end; labels are the response's ids, IGNORE elsewhere. There may be none."""
    ids = [i for row in rows for i in row.ids]
    labels = [i for row in rows for i in (*[IGNORE] * row.start, *row.ids[row.start :])]
    return Packed(
        torch.tensor(ids, dtype=torch.long), torch.tensor(labels, dtype=torch.long), tuple(rows)
    )
