"""The one place where text becomes ids, masks and labels.

A prompt is encoded exactly as generation sees it; the response is encoded as its continuation and
the ids are joined, so no token straddles the two and the same prompt has the same ids everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.api.lazy import torch
from holdfast.errors import DataError, ModelError

if TYPE_CHECKING:
    from jinja2 import Template
    from torch import Tensor
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from holdfast.data.example import Example

IGNORE = -100
"""The label of a position that no loss reads; torch's cross-entropy ignores it by default."""

PLAIN = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}System: {{ m.content }}\n"
    "{% elif m.role == 'user' %}User: {{ m.content }}\n"
    "{% else %}Assistant: {{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""The plain format for base models; source: SGT's `User: ... Assistant: ...`."""

SLACK = 8
"""Tokens of a row that stand for no byte of it: where a text begins, ends or is put together."""

_MARK = "\u0001holdfast\u0001"

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


def format_identity(form: str, where: str = "format", *, append_eos: bool = True) -> dict[str, Any]:
    """Give what a format adds to a key: its name and, for a file, the hash of its bytes.

    The end token is only told where it is left out.
    """
    if not append_eos:
        return format_identity(form, where) | {"append_eos": False}
    if form in ("plain", "chat"):
        return {"format": form}
    path = Path(form)
    if path.suffix != ".jinja":
        raise ModelError(
            where, f"unknown format '{form}'", "write plain, chat, or the path of a .jinja file"
        )
    if not path.is_file():
        raise ModelError(where, f"no such file {form}", "check the path")
    return {"format": "file", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@lru_cache(maxsize=32)
def _compiled(template: str) -> Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)


class Encoder:
    """A tokenizer and a format: renders prompts and encodes rows.

    Args:
        tokenizer: a fast Hugging Face tokenizer (offsets are needed).
        form: `plain`, `chat` (the tokenizer's own template) or the path of a .jinja file.
        append_eos: whether a response ends with the end-of-sequence token; without it
            answers run to the limit (docs/fidelity/sgt.md, row 24).
        max_length: longest row in tokens; a longer one is a DataError, never cut silently.
        variables: fixed template variables.

    Raises:
        ModelError: a slow tokenizer, no chat template for `chat`, a broken template file.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        form: str,
        *,
        append_eos: bool = True,
        max_length: int | None = None,
        where: str = "format",
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(where, "the tokenizer is not a fast one", "convert to tokenizer.json")
        format_identity(form, where)
        if form == "chat" and not tokenizer.chat_template:
            raise ModelError(
                where,
                "format 'chat' asked for, the tokenizer has no chat template",
                "use format: plain or a .jinja file",
            )
        if append_eos and tokenizer.eos_token_id is None:
            raise ModelError(where, "the tokenizer has no end token", "set eos_token")
        self.tokenizer = tokenizer
        self.form = form
        self.append_eos = append_eos
        self.max_length = max_length
        self.where = where
        self.variables = dict(variables or {})
        self._template = {"plain": PLAIN, "chat": None}.get(form)
        if self._template is None and form != "chat":
            self._template = Path(form).read_text(encoding="utf-8")
        self._cache: dict[tuple[str | None, str, str | None], Row] = {}

    @property
    def pad_id(self) -> int:
        """Give the id that fills padding: masks come from lengths, so any id will do."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else self.tokenizer.eos_token_id

    @property
    def eos_id(self) -> int:
        """Give the id that ends a response."""
        return self.tokenizer.eos_token_id

    def render(self, prompt: str, system: str | None = None, response: str | None = None) -> str:
        """Give the text that generation is started with; with a response, the whole exchange."""
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": prompt})
        if response is not None:
            messages.append({"role": "assistant", "content": response})
        ask = response is None
        try:
            if self._template is None:
                return str(
                    self.tokenizer.apply_chat_template(
                        messages, tokenize=False, add_generation_prompt=ask, **self.variables
                    )
                )
            special = {
                name: getattr(self.tokenizer, name) or "" for name in ("bos_token", "eos_token")
            }
            return _compiled(self._template).render(
                messages=messages, add_generation_prompt=ask, **(special | self.variables)
            )
        except Exception as error:  # a template is a program of somebody else's
            raise ModelError(
                self.where, f"the template fails ({error})", "mend it or use format: plain"
            ) from None

    @cached_property
    def gap(self) -> str:
        """Give the white space the template puts between prompt and response."""
        before, whole = self.render("x"), self.render("x", None, _MARK)
        between = whole[len(before) : whole.find(_MARK)] if whole.startswith(before) else ""
        return between if between.isspace() else ""

    def _adds_bos(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return self.form == "plain" or not (bos and text.startswith(bos))

    def encode_prompt(self, prompt: str, system: str | None = None) -> Row:
        """Encode a prompt as generation sees it, with the span of the user's words."""
        text = self.render(prompt, system)
        start = self.render(_MARK, system).find(_MARK)
        words = prompt
        if start < 0 or not text.startswith(words, start):
            words = prompt.strip()  # a template may trim what it is given
            if start < 0 or not text.startswith(words, start):
                start = text.rfind(words) if words else -1
        if start < 0:
            raise ModelError(
                self.where, "the template does not show the user's words", "mend the template"
            )
        end = start + len(words)
        coded = self.tokenizer(
            text, add_special_tokens=self._adds_bos(text), return_offsets_mapping=True
        )
        ids, offsets = list(coded["input_ids"]), list(coded["offset_mapping"])
        if ids and ids[-1] == self.tokenizer.eos_token_id and offsets[-1][0] == offsets[-1][1]:
            ids, offsets = ids[:-1], offsets[:-1]  # a tokenizer that closes every text itself
        inside = [i for i, (a, b) in enumerate(offsets) if a < b and b > start and a < end]
        first, last = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
        bos = bool(ids) and ids[0] == self.tokenizer.bos_token_id
        return Row(tuple(ids), len(ids), (first, last), bos)

    def continuation(self, text: str, prompt_text: str, prompt_ids: Sequence[int]) -> list[int]:
        """Encode `text` as what follows the prompt, never merging with its last token."""
        special = self._adds_bos(prompt_text)
        whole = self.tokenizer(prompt_text + text, add_special_tokens=special)["input_ids"]
        n = len(prompt_ids)
        if list(whole[:n]) == list(prompt_ids):
            rest = list(whole[n:])
            if rest and rest[-1] == self.eos_id and not text.endswith(self.tokenizer.eos_token):
                rest = rest[:-1]
            return rest
        for stone in ("\n", ".", ":", "~"):  # a neighbour that does not merge, then taken away
            alone = self.tokenizer(stone, add_special_tokens=False)["input_ids"]
            both = self.tokenizer(stone + text, add_special_tokens=False)["input_ids"]
            if both[: len(alone)] == alone:
                return list(both[len(alone) :])
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, prompt: str, response: str | None = None, system: str | None = None) -> Row:
        """Encode one row; with `response=None` the prompt alone.

        In the plain format a space is put between prompt and response where the rendered prompt
        ends in neither space nor line break; a template's own last characters decide otherwise.
        """
        key = (system, prompt, response)
        if key in self._cache:
            return self._cache[key]
        row = self.encode_prompt(prompt, system)
        if response is not None:
            text = self.render(prompt, system)
            ids = [*row.ids, *self.continuation(self.gap + response, text, row.ids)]
            if self.append_eos and (not ids or ids[-1] != self.eos_id or len(ids) == row.start):
                ids.append(self.eos_id)
            row = Row(tuple(ids), row.start, row.content, row.bos)
        if self.max_length is not None and len(row.ids) > self.max_length:
            raise DataError(
                f"{self.where}: row '{prompt[:40]}'",
                f"{len(row.ids)} tokens, the limit is {self.max_length}",
                "drop the row or raise max_length",
            )
        self._cache[key] = row
        return row

    def check(self, rows: Iterable[Example]) -> None:
        """Refuse rows longer than `max_length` before any of them is trained on.

        A token holds a byte or more, so a row whose words and frame have fewer bytes is not coded.

        Raises:
            DataError: one is.
        """
        if self.max_length is None:
            return
        frame = len(self.render("x", None, "x").encode())
        for row in rows:
            words = len((row.prompt + (row.response or "")).encode())
            if row.system is not None or frame + words + SLACK > self.max_length:
                self.encode(row.prompt, row.response, row.system)

    def encode_begun(self, prompt: str, prefill: str, system: str | None = None) -> Row:
        """Encode a prompt with the first words of its answer, as generation is to go on from them.

        No end token; the words stand where a response would (`ids[start:]`).
        """
        row = self.encode(prompt, None, system)
        if not prefill:
            return row
        text = self.render(prompt, system)
        ids = (*row.ids, *self.continuation(self.gap + prefill, text, row.ids))
        return Row(ids, row.start, row.content, row.bos)

    def batch(self, examples: Sequence[Example], *, left: bool = False) -> Tokens:
        """Encode and pad rows with their responses (right padding by default)."""
        return collate(
            [self.encode(row.prompt, row.response, row.system) for row in examples],
            self.pad_id,
            left=left,
        )

    def prompts(self, examples: Sequence[Example], *, left: bool = True) -> Tokens:
        """Encode and pad prompts alone (left padding by default, as generation needs)."""
        return collate(
            [self.encode(row.prompt, None, row.system) for row in examples], self.pad_id, left=left
        )


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
