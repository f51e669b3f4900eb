"""SGT's groups of fields: the trigger, stage 1's consistency, stage 2's matching and repulsion.

A *fidelity row* is one of the numbered choices in docs/fidelity/sgt.md.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from holdfast.api import Count, NotNegative, Positive, Share
from holdfast.api.fields import LATER, AsTuple, Fields, was
from holdfast.data.tokens import Positions

Reduce = Literal["mean", "sum"]
Texts = Annotated[tuple[str, ...], Field(min_length=1)]


class Trigger(Fields):
    """The soft trigger: where it stands and how it is drawn."""

    position: Literal["after_user_tag", "after_bos", "before_bos", "before_response"] = (
        "after_user_tag"
    )
    """Where it is inserted; source: the released code (fidelity row 1)."""
    length: Count = 4
    """Vectors, each learned; ours: a real model learns its refusal sooner, and more of it
    (docs/hardening-a-model.md). The paper's is 1."""
    unit: Annotated[Literal["embedding", "one"], Field(json_schema_extra=was("one"))] = "embedding"
    """What `init_std`, `stage1.lr` and `cons.sigma` are counted in: `embedding`, the root mean
    square of the model's input embeddings, so that the same numbers suit every model (ours); `one`,
    as in the paper."""
    init_std: Positive = 0.01
    """Standard deviation of the first draw, in units; source: the paper's appendix."""
    file: Annotated[str | None, Field(json_schema_extra=LATER)] = None
    """A trigger trained before, as a hardened checkpoint keeps it (`state/trigger.safetensors`):
    stage 1 is then left out. One of another model, format or position is refused."""

    def key_fields(self) -> dict[str, Any]:
        """Give the fields, a file by its bytes."""
        plain = super().key_fields()
        if self.file is not None and (path := Path(self.file)).is_file():
            plain["file"] = hashlib.sha256(path.read_bytes()).hexdigest()
        return plain


class Consistency(Fields):
    """The KL term of stage 1."""

    weight: NotNegative = 1.0
    """alpha_cons; source: the paper."""
    sigma: NotNegative = 0.1
    """Standard deviation of the noise, in the trigger's unit; ours. The paper's is 0.01
    in no unit."""
    sigma_mode: Literal["absolute", "relative"] = "absolute"
    """`relative` multiplies sigma by |phi| / sqrt(H) (fidelity row 21)."""
    samples: Count = 2
    """Noise draws a step; source: the paper."""
    noise: Literal["per_batch", "per_row"] = "per_batch"
    """Whether rows share a draw; the released code's do."""
    sides: Annotated[Literal["noisy", "both"], Field(json_schema_extra=LATER)] = "noisy"
    """Through which side of the KL the gradient runs: the noisy one, the clean one being a constant
    as in the released code, or both, as the paper's formula stands (fidelity row 20)."""


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] >= ends[1]:
        raise ValueError("two shares that rise, such as [0.5, 1.0]")
    return ends


class Align(Fields):
    """Which hidden states are matched and how their distance is reduced."""

    positions: Positions = "generation"
    """`generation`: the position that emits the first response token, and the teacher-forced
    refusal (fidelity row 4); `prompt`: the paper's literal reading; `response`: the released
    code; `all`; `last_prompt`."""
    layers: Annotated[tuple[Share, Share], AsTuple, AfterValidator(_rising)] = (0.0, 1.0)
    """Range of blocks as fractions of depth; (0, 1) is all L."""
    final_norm: bool = True
    """Take the last block after the final norm, as Hugging Face's `hidden_states` does."""
    over_hidden: Reduce = "mean"
    """Reduction over H (fidelity row 8); the paper's norm is a sum."""
    over_tokens: Reduce = "mean"
    """Reduction over the matched tokens of a row."""
    relative: bool | Literal["shift"] = "shift"
    """What each layer's distance is divided by: `shift`, the square of how far the trigger moves
    the target from the plain state, so that it is 1 before training in every layer (ours);
    `true`, the teacher's own mean square (fidelity row 9); `false`, nothing, as in the paper."""
    guidance: Annotated[Positive, Field(json_schema_extra=LATER)] = 1.0
    """How many times the trigger's shift the target lies beyond the plain state; the paper's is 1.
    More gives the refusal a larger margin than the trigger has; ours (docs/results/sgt.md)."""


class Repel(Fields):
    """The repulsion of benign states from their triggered versions."""

    positions: Positions = "generation"
    """Same rule as alignment (fidelity row 15)."""
    aggregate: Literal["log_of_mean", "mean_of_logs"] = "log_of_mean"
    """Paper's form, or the released code's (fidelity row 12)."""
    eps: Positive = 1e-3
    """epsilon_r; source: the released code (the paper says "small")."""


class Ending(Fields):
    """When a stage ends before its last step: looked up on held-out rows of the defender.

    A pool without held-out refusals (side `defender_selection`) takes every step.
    """

    refused: Share = 0.95
    """Least share of held-out restricted prompts whose answer opens as a refusal: in stage 1 with
    the trigger, and with the trigger under noise; in stage 2 without it. Ours."""
    trigger_loss: Positive = 0.2
    """Largest loss on held-out refusals with the trigger in stage 1, nats a token: a trigger that
    only just wins may be a weak target for stage 2 (docs/hardening-a-model.md). Ours."""
    refused_benign: Share = 0.1
    """Largest share of held-out benign prompts refused, in stage 2; ours."""
    benign_loss: Positive | None = None
    """Largest loss on held-out benign answers, beside the base's, in stage 2. None asks for none:
    where it is too large, more steps only raise it (docs/hardening-a-model.md); ours."""
    every: Count = 10
    """Steps between two looks; ours."""
    rows: Count = 32
    """Most held-out rows of a role that are looked at, then and when all is measured at the end:
    on a real model that costs as much as many steps; ours."""
