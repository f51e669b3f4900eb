"""What is found out before weights are loaded: rows too long, too little memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from holdfast.api import Loop
from holdfast.errors import ModelError

if TYPE_CHECKING:
    from holdfast.data.example import Example
    from holdfast.data.tokens import Encoder
    from holdfast.nn.files import ModelFiles


def encoder(files: ModelFiles, form: str, *, append_eos: bool = True) -> Encoder:
    """Give the encoder of a checkpoint, which refuses rows longer than the model's context."""
    from transformers import AutoTokenizer

    from holdfast.data.tokens import Encoder
    from holdfast.nn.memory import shape

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            "--model", f"the tokenizer cannot be loaded ({cause})", "copy it"
        ) from None
    limit = shape(files).context
    return Encoder(tokenizer, form, append_eos=append_eos, max_length=limit, where="--format")


def check(
    files: ModelFiles,
    coder: Encoder,
    rows: Mapping[Any, Iterable[Example]],
    loop: Loop | None,
    *,
    copies: int = 0,
    device: str = "cpu",
) -> None:
    """Encode every row and estimate memory; raises DataError or ModelError in one line."""
    from holdfast.data.example import check_answered
    from holdfast.nn.memory import available, check_memory, needed, shape

    if loop is not None:
        check_answered(rows)
    coded = [
        coder.encode(row.prompt, row.response, row.system) for some in rows.values() for row in some
    ]
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
    check_memory(parts, available(device), loop)
