"""An answer, and how it is cut out of what a model wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.api.degenerate import degenerate

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.tokens import Encoder
    from holdfast.evaluate.sampler import Sampler


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer: its text without special tokens, why it ended, and its tokens."""

    text: str
    finish_reason: str
    """`stop`, or `length` where it reached the token limit; a server may have words of its own."""
    tokens: int | None
    """Tokens that the model added; None where an outside engine or a server does not say."""

    def fields(self, prefill: str = "") -> dict[str, object]:
        """Give it as fields of an exchange; `degenerate` is there where it is no language."""
        said: dict[str, object] = {"response": self.text, "finish_reason": self.finish_reason}
        if self.tokens is not None:
            said["tokens"] = self.tokens
        return said | ({"degenerate": True} if degenerate(self.text, prefill) else {})


def cut(ids: Tensor, encoder: Encoder, sampler: Sampler) -> str | None:
    """Give the text before the first stop text, or None where there is none."""
    return before(str(encoder.tokenizer.decode(ids, skip_special_tokens=True)), sampler)


def before(text: str, sampler: Sampler) -> str | None:
    """Give what stands before the first stop text, or None where there is none."""
    found = [place for stop in sampler.stop if (place := text.find(stop)) >= 0]
    return text[: min(found)] if found else None


def of_ids(
    ids: Tensor, begun: Sequence[int], encoder: Encoder, sampler: Sampler, ends: list[int]
) -> Completion:
    """Cut what was added to `begun` at its first end token or stop text."""
    import torch

    found = torch.isin(ids, torch.tensor(ends)).nonzero()
    kept = ids[: int(found[0, 0])] if len(found) else ids
    text = encoder.tokenizer.decode([*begun, *kept.tolist()], skip_special_tokens=True)
    if sampler.stop and cut(kept, encoder, sampler) is not None:
        used = int((kept != encoder.pad_id).sum())  # a row that stopped is filled up with padding
        # Looked for behind the given words, but cut out of the whole: decoded apart, a tokenizer
        # may drop the space between the two.
        given = len(encoder.tokenizer.decode(list(begun), skip_special_tokens=True))
        found = [place for stop in sampler.stop if (place := text.find(stop, given)) >= 0]
        return Completion(text[: min(found, default=len(text))].strip(), "stop", used)
    return Completion(text.strip(), "stop" if len(found) else "length", len(kept))
