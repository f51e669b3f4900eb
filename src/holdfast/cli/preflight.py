"""What is found out before weights are loaded: rows too long, too little memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from holdfast.api import Loop
from holdfast.cli.saying import say

if TYPE_CHECKING:
    from holdfast.data.example import Example
    from holdfast.data.format import Format
    from holdfast.data.tokens import Encoder
    from holdfast.nn.files import ModelFiles


def encoder(
    files: ModelFiles, asked: Format, *, answer: int = 0, where: str = "--format"
) -> Encoder:
    """Give the encoder of a checkpoint, which refuses rows that the model cannot take.

    Args:
        answer: tokens kept free behind a prompt, for the answer to come.
        where: what an error about a row or the template begins with.
    """
    from holdfast.data.tokens import Encoder, load_tokenizer
    from holdfast.nn.memory import shape

    tokenizer, of = load_tokenizer(files.folder, "--model"), shape(files)
    return Encoder(
        tokenizer,
        asked,
        max_length=of.context,
        answer=answer,
        embeddings=of.vocabulary or None,
        where=where,
    )


def room(
    files: ModelFiles, asked: Format, rows: Iterable[Example], most: int, *, where: str
) -> int:
    """Give the tokens, at most `most`, that a context leaves for an answer to the longest prompt.

    Raises:
        DataError: a prompt leaves none.
    """
    from holdfast.nn.memory import shape

    context = shape(files).context
    if context is None:
        return most
    coder = encoder(files, asked, answer=1, where=where)
    lengths = [len(coder.row(replace(row, response=None)).ids) for row in rows]
    return min(most, context - max(lengths, default=0))


def warn(files: ModelFiles, asked: Format) -> None:
    """Say on stderr that a checkpoint is asked in another format than it was made in."""
    from holdfast.data.format import mismatch

    told = mismatch(files.folder, asked)
    if told is not None:
        say(f"warning: {files.spec} {told}", err=True)


def check(
    files: ModelFiles,
    coder: Encoder,
    rows: Mapping[Any, Iterable[Example]],
    loop: Loop | None,
    *,
    copies: int = 0,
    device: str = "cpu",
    separable: bool = True,
) -> None:
    """Encode every row and estimate memory; raises DataError or ModelError in one line."""
    from holdfast.data.example import check_answered
    from holdfast.nn.memory import available, check_memory, needed, shape

    if loop is not None:
        check_answered(rows)
    coded = [coder.row(row) for some in rows.values() for row in some]
    lengths = [len(row.ids) for row in coded]
    size = (loop.micro_batch or loop.batch) * len(rows) if loop else 0
    parts = needed(
        shape(files),
        loop,
        copies=copies,
        rows=size,
        longest=max(lengths, default=0),
        said=max((len(row.ids) - row.start for row in coded), default=0),
    )
    check_memory(parts, available(device), loop, separable=separable)
