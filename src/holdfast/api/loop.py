"""The training loop's fields, and the types that fields of numbers share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from holdfast.api.fields import LATER, NO_EFFECT, Fields
from holdfast.errors import ConfigError

Precision = Literal["fp32", "fp32_master", "bf16_kahan", "bf16_stochastic", "bf16_pure"]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Of a moment: at 1 it would never begin."""
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(pattern=r"\S")]
"""Text that says something."""
Layer = Count | Share
"""The state after so many blocks (an int), or after that share of them (a float), at least one."""


class LoRA(Fields):
    """A low-rank adapter on linear layers, merged into plain weights when training ends."""

    rank: Count = 16
    """Rank of the update; source: Hu et al. 2021's range, 16 as in SGT's rivals' releases."""
    alpha: Positive = 16.0
    """Scale: the update is alpha / rank x B A."""
    targets: Literal["attention", "all"] = "all"
    """Which linear layers of each block: the four of attention, or all."""
    through: Annotated[Layer, Field(json_schema_extra=LATER)] = 1.0
    """The last block that is adapted, from the first on: its number, or a fraction of depth."""


class Loop(Fields):
    """The one training loop's fields."""

    steps: Count = 100
    """Optimiser steps."""
    batch: Count = 8
    """Rows of each role in an optimiser step."""
    micro_batch: Count | None = None
    """Rows of each role in one forward pass; None means the whole step at once. Fewer only save
    memory, except in methods that look at a pass as a whole (`separable` is false: vaccine,
    t_vaccine, random_vaccine, rep_noise, triplet): there they also change the updates."""
    batching: Annotated[Literal["stratified", "mixed"], Field(json_schema_extra=LATER)] = (
        "stratified"
    )
    """`stratified`: `batch` rows of each role in every step, so that no term is ever left out;
    `mixed`: as many rows in all, drawn from all roles together, as common trainers do
    (docs/fidelity/sgt.md, row 32)."""
    lr: Positive = 1e-3
    """Learning rate of AdamW at its highest."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the rate falls after warm-up: not at all, or towards 0, due one step after the last."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises from lr / warmup."""
    weight_decay: NotNegative = 0.0
    """AdamW's decoupled weight decay."""
    decay_norms: Annotated[bool, Field(json_schema_extra=LATER)] = True
    """Whether it also shrinks tensors of one dimension (gains of norms, biases), as torch's AdamW
    does by itself; common trainers leave them. Without a weight decay it says nothing and is put
    back to its default."""
    beta1: Decay = 0.9
    """AdamW's first moment decay; source: Loshchilov and Hutter 2019."""
    beta2: Decay = 0.999
    """AdamW's second moment decay; source: Loshchilov and Hutter 2019."""
    eps: Positive = 1e-8
    """AdamW's epsilon; source: Loshchilov and Hutter 2019."""
    clip: Positive | None = 1.0
    """Largest L2 norm of the combined gradient; 1.0 as in the released trainers; None: no limit."""
    precision: Precision = "fp32"
    """Weights and arithmetic: `fp32`; `fp32_master`: fp32 weights, bf16 compute; `bf16_kahan`: bf16
    weights and a bf16 memory of what rounding took; `bf16_stochastic`: bf16 weights rounded up or
    down by chance; `bf16_pure`: bf16 weights rounded to the nearest, which swallows small steps."""
    lora: LoRA | None = None
    """Train a low-rank adapter instead of all weights."""
    train_embeddings: bool = True
    """Whether embeddings and head are trained (full fine-tuning only)."""
    packing: bool = True
    """Run rows end to end without padding where the model's attention allows it: the same numbers
    to rounding (1e-6), sooner and in less memory. Off: padded passes."""
    checkpoint_activations: Annotated[bool, Field(json_schema_extra=LATER)] = False
    """Keep only each block's input for the backward pass and run the block again there: one more
    forward pass for far less memory, the same numbers to rounding."""
    compile_layers: Annotated[bool, Field(json_schema_extra=LATER)] = False
    """Compile each block with `torch.compile`: worth its minutes on a GPU; rounds otherwise."""
    checkpoint_every: Annotated[int, Field(ge=1, json_schema_extra=NO_EFFECT)] = 200
    """Steps between two checkpoints of an unfinished run."""

    @property
    def split(self) -> bool:
        """Say whether a step is made of several micro-batches."""
        return self.micro_batch is not None and self.micro_batch < self.batch

    @model_validator(mode="before")
    @classmethod
    def _nothing_decays(cls, data: object) -> object:
        """Leave out what to decay where nothing decays, so that it enters no key there."""
        if not isinstance(data, dict):
            return data
        if data.get("weight_decay", cls.model_fields["weight_decay"].default):
            return data
        return {name: value for name, value in data.items() if name != "decay_norms"}

    @model_validator(mode="after")
    def _compiled_blocks_keep_their_hooks(self) -> Loop:
        if self.compile_layers and self.lora is not None:
            raise ConfigError(
                "loop.compile_layers",
                "does not go with lora: a compiled block cannot switch its adapter off",
                "use one of them",
            )
        return self
