"""The shape of a model: of one on this machine, or, from committed configs, of one that is not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from holdfast.api import Blocks
from holdfast.api.fields import parse_yaml
from holdfast.nn.files import ModelFiles

NORMED = ("qwen3",)
"""Model types whose queries and keys pass a norm with weights of its own."""

BIASED = ("qwen2",)
"""Model types whose queries, keys and values have biases."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a checkpoint's config and headers say: counts of weights, and sizes.

    `tables` counts matrices of vocabulary x hidden: 1 where embedding and head are one. `attention`
    is attention's share of a block's weights.
    """

    weights: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int
    context: int | None
    tables: int = 2
    attention: float = 0.0
    shared: int = 0
    """Numbers in the key, and in the value, that one block keeps of a token."""
    besides: int = 0
    """Weights outside the text's part, which are loaded and never trained."""

    @property
    def head(self) -> int:
        """Give the head's weights."""
        return self.vocabulary * self.hidden

    @property
    def body(self) -> int:
        """Give the blocks' weights: all but embedding, head and last norm."""
        return self.weights - self.besides - self.tables * self.head - self.hidden

    @property
    def blocks(self) -> Blocks:
        """Give what decides how often a step passes through it."""
        return Blocks(self.layers, self.attention)


@dataclass(frozen=True, slots=True)
class AbsentFiles(ModelFiles):
    """A model that is not on this machine, known by its shape alone: for estimates."""

    shape: Shape = field(kw_only=True)

    def shards(self) -> list[Path]:
        """Give none."""
        return []

    def identity(self) -> dict[str, Any]:
        """Give the name it is known by."""
        return {"absent": self.spec}

    def dtype(self) -> str:
        """Give what published weights of its kind are stored in."""
        return "bf16"


def attention_of(config: dict[str, Any], hidden: int, inner: int) -> tuple[float, int]:
    """Give attention's share of a block's weights, norms left out, and the numbers of a token's key
    there; 0 where a config says too little.
    """
    heads = config.get("num_attention_heads") or config.get("n_head")
    if not heads:
        return 0.0, 0
    width = config.get("head_dim") or hidden // heads
    shared = config.get("num_key_value_heads") or heads
    attention = 2 * hidden * width * (heads + shared)
    return attention / (attention + 3 * hidden * inner), shared * width


def known_shapes() -> dict[str, Shape]:
    """Give every committed shape by the names its model is asked for by."""
    return {name: _made(entry) for entry in _entries() for name in entry["names"]}


def known_shape(spec: str) -> Shape | None:
    """Give the committed shape of `org/name`, with or without `@COMMIT`; None where there is
    none.
    """
    return known_shapes().get(spec.partition("@")[0])


def known_config(name: str) -> dict[str, Any]:
    """Give the committed config values of a model."""
    entry = next(one for one in _entries() if name in one["names"])
    return {key: value for key, value in entry.items() if key not in ("names", "besides")}


def absent(spec: str) -> AbsentFiles | None:
    """Give the stand-in for a model that is not here; None where no shape of it is known."""
    shape = known_shape(spec)
    return None if shape is None else AbsentFiles(spec, Path(spec), shape=shape)


@cache
def _entries() -> tuple[dict[str, Any], ...]:
    file = resources.files("holdfast.nn").joinpath("shapes.yaml")
    found: Iterable[dict[str, Any]] = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    return tuple(found)


def _made(of: dict[str, Any]) -> Shape:
    """Count a decoder's weights: per block four matrices of attention, three of the MLP, norms."""
    hidden, inner, width = of["hidden_size"], of["intermediate_size"], of["head_dim"]
    heads, shared = of["num_attention_heads"], of["num_key_value_heads"]
    norms = 2 * hidden + (2 * width if of["model_type"] in NORMED else 0)
    biases = (heads + 2 * shared) * width if of["model_type"] in BIASED else 0
    block = biases + 2 * hidden * width * (heads + shared) + 3 * hidden * inner + norms
    tables = 1 if of["tie_word_embeddings"] else 2
    besides = of.get("besides", 0)
    weights = of["num_hidden_layers"] * block + tables * of["vocab_size"] * hidden + hidden
    return Shape(
        weights + besides,
        of["num_hidden_layers"],
        hidden,
        inner,
        of["vocab_size"],
        of["max_position_embeddings"],
        tables,
        *attention_of(of, hidden, inner),
        besides,
    )
