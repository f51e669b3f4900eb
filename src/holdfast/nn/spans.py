"""Which tokens of a row are matched with another model's states, by meaning; no torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from holdfast.data.tokens import Row

Positions = Literal["generation", "prompt", "response", "all", "last_prompt"]
"""`generation`: the position that emits the first response token, and the response; `prompt`;
`response`; `all`; `last_prompt`: the emitting position alone."""


def matched_span(row: Row, which: Positions) -> tuple[int, int]:
    """Give the first matched token of a row and the one behind the last, by meaning and not by id.

    The same words are matched whether or not the tokenizer begins with a BOS token, which is no
    word: in large models its state is by far the largest and would drown the others' distance.
    """
    return {
        "generation": (row.start - 1, len(row.ids)),
        "prompt": (int(row.bos), row.start),
        "response": (row.start, len(row.ids)),
        "all": (int(row.bos), len(row.ids)),
        "last_prompt": (row.start - 1, row.start),
    }[which]
