"""How answers are drawn; known at plan time, without torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from holdfast.config import NO_EFFECT, Fields
from holdfast.run import Count, NotNegative, Share


class Sampler(Fields):
    """Greedy at temperature 0, else nucleus sampling."""

    max_new_tokens: Count = 512
    """Longest answer; source: register 9.D row 37 (the world's answers need 48)."""
    temperature: NotNegative = 0.0
    """0 is greedy."""
    top_p: Share = 1.0
    """Smallest set of tokens whose probability reaches this is drawn from."""
    batch: Annotated[int, Field(ge=1, json_schema_extra=NO_EFFECT)] = 128
    """Prompts in a batch; changes speed, not answers (within fp32 rounding)."""
