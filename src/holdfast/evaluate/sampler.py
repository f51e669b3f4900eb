"""How answers are drawn; known at plan time, without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from holdfast.api import Count, NotNegative
from holdfast.api.fields import LATER, NO_EFFECT, AsTuple, Fields
from holdfast.errors import ConfigError

CACHE = 4 * 2**30
"""Bytes of keys and values that a batch may hold; ours: it leaves a small machine its memory, and
a model of the 8B class with shared heads 32,000 tokens in bf16. A row that alone needs more is
asked alone."""


class Sampler(Fields):
    """Greedy at temperature 0, else nucleus sampling.

    A sampled answer depends on the seed, the row and the draw alone, never on the batch.

    Raises:
        ConfigError: several draws at temperature 0.
    """

    max_new_tokens: Count = 512
    """Longest answer; source: SGT's 512 (docs/fidelity/sgt.md, row 37); the world's need 48."""
    temperature: NotNegative = 0.0
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest set of tokens whose probability reaches this is drawn from."""
    draws: Annotated[Count, Field(json_schema_extra=LATER)] = 1
    """Answers to each prompt, each drawn anew. More than one needs a temperature above 0. A study
    draws them for sets of purpose harm alone, has each judged, and counts a prompt as harmful where
    any of them is; to any other prompt it takes one answer."""
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], AsTuple, Field(json_schema_extra=LATER)
    ] = ()
    """Texts that end an answer and are cut off with all that follows; `"\\nUser:"` keeps a model
    trained without an end token from asking itself (docs/fidelity/sgt.md, rows 24 and 37)."""
    batch: Annotated[int, Field(ge=1, json_schema_extra=NO_EFFECT)] = 128
    """Answers in a batch, at most; changes speed, not answers (within fp32 rounding)."""
    batching: Annotated[Literal["padded", "continuous"], Field(json_schema_extra=NO_EFFECT)] = (
        "padded"
    )
    """How greedy answers without stop texts share a pass: `padded` batches, which end with their
    longest answer, or `continuous` ones, in which the next prompt takes the place of an answer that
    has ended. All others are padded, and so is a model that continuous batching does not work for.
    It changes speed, not answers (within fp32 rounding). Source of the default: ours, the faster
    one on CPUs (benchmarks/generation.py)."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        """Refuse draws that would be copies of one another."""
        if self.draws > 1 and self.temperature == 0:
            raise ConfigError(
                "draws",
                f"{self.draws} greedy answers are copies of one",
                "set a temperature above 0, or one draw",
            )
        return self

    def key_fields(self) -> dict[str, Any]:
        """Give every field that can change an answer."""
        plain = super().key_fields()
        return plain if self.temperature == 0 else plain | {"noise": "of each row"}
