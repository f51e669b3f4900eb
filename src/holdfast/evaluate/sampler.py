"""How answers are drawn; known at plan time, without torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from holdfast.api import Count, NotNegative, Share
from holdfast.api.fields import LATER, NO_EFFECT, AsTuple, Fields


class Sampler(Fields):
    """Greedy at temperature 0, else nucleus sampling."""

    max_new_tokens: Count = 512
    """Longest answer; source: SGT's 512 (docs/fidelity/sgt.md, row 37); the world's need 48."""
    temperature: NotNegative = 0.0
    """0 is greedy."""
    top_p: Share = 1.0
    """Smallest set of tokens whose probability reaches this is drawn from."""
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], AsTuple, Field(json_schema_extra=LATER)
    ] = ()
    """Texts that end an answer and are cut off with all that follows; `"\\nUser:"` keeps a model
    trained without an end token from asking itself (docs/fidelity/sgt.md, rows 24 and 37)."""
    batch: Annotated[int, Field(ge=1, json_schema_extra=NO_EFFECT)] = 128
    """Prompts in a batch; changes speed, not greedy answers (within fp32 rounding). A sampled
    batch shares its draws, so under sampling this is part of the key."""

    def key_fields(self) -> dict[str, Any]:
        """Give every field that can change an answer."""
        plain = super().key_fields()
        return plain if self.temperature == 0 else plain | {"batch": self.batch}
