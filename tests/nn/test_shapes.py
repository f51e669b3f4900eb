"""Committed shapes count what transformers makes of a config; memory is what a GPU needed."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from holdfast import nn
from holdfast.api import Loop, LoRA, Precision
from holdfast.nn.files import resolve
from holdfast.nn.memory import needed, shape
from holdfast.nn.shapes import absent, known_config, known_shape, known_shapes

NAMES = sorted({shape: name for name, shape in sorted(known_shapes().items())}.values())
"""One model of each shape."""
GIB = 2**30


@pytest.mark.parametrize("name", NAMES)
def test_a_shape_counts_the_weights_of_the_model_that_its_config_makes(name: str) -> None:
    said = known_config(name)
    kind = said.pop("model_type")
    config = CONFIG_MAPPING[kind](**said, pad_token_id=0)
    if kind == "llama4_text":  # its dense form: no experts
        config = CONFIG_MAPPING[kind](
            **said, intermediate_size_mlp=said["intermediate_size"], moe_layers=[], pad_token_id=0
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = known_shape(name)
    assert found is not None
    assert sum(math.prod(p.shape) for p in model.parameters()) == found.weights - found.besides
    blocks = nn.blocks(model)
    assert sum(math.prod(p.shape) for p in blocks.parameters()) == found.body
    assert len(blocks) == found.layers
    inside = sum(math.prod(p.shape) for m in nn.attentions(model) for p in m.parameters())
    assert found.attention == pytest.approx(inside / found.body, rel=1e-3)
    assert model.get_output_embeddings().weight.numel() == found.head


def test_a_shape_read_from_files_splits_into_blocks_and_head_as_the_model_does() -> None:
    files = resolve("world:base")
    model = AutoModelForCausalLM.from_pretrained(files.folder)
    found = shape(files)
    assert found.body == sum(p.numel() for p in nn.blocks(model).parameters())
    assert found.head == model.get_output_embeddings().weight.numel()
    assert found.tables == 1
    config = AutoConfig.from_pretrained(files.folder)
    assert found.shared == config.num_key_value_heads * config.head_dim


def test_a_name_is_known_with_and_without_a_commit() -> None:
    assert known_shape("Qwen/Qwen3-8B-Base@" + "0" * 40) == known_shape("Qwen/Qwen3-8B-Base")
    assert known_shape("Qwen/Qwen3-9B") is None
    assert absent("Qwen/Qwen3-9B") is None


MEASURED: list[tuple[Precision, bool, float]] = [
    ("bf16_kahan", False, 121.7),
    ("bf16_stochastic", False, 106.4),
    ("bf16_pure", True, 31.1),
]
"""GiB at most of a whole SGT of an 8B shape on an H200, by the allocator (LOG.md, 2026-11-26)."""


@pytest.mark.parametrize(("precision", "adapter", "peak"), MEASURED)
def test_the_memory_of_an_8b_step_is_what_was_measured(
    precision: Precision, adapter: bool, peak: float
) -> None:
    of = known_shape("Qwen/Qwen3-8B-Base")
    assert of is not None
    loop = Loop(batch=2, micro_batch=1, precision=precision, lora=LoRA() if adapter else None)
    parts = needed(of, loop, copies=0 if adapter else 1, rows=2, longest=886, said=386)
    assert sum(parts.values()) / GIB == pytest.approx(peak, rel=0.05)


def test_recomputed_activations_need_a_block_and_each_ones_input() -> None:
    of = known_shape("Qwen/Qwen3-8B-Base")
    assert of is not None
    loop = Loop(batch=4, precision="bf16_kahan")
    whole = needed(of, loop, rows=8, longest=1000)["activations"]
    again = needed(of, loop.with_(checkpoint_activations=True), rows=8, longest=1000)["activations"]
    block = whole / of.layers
    assert again == pytest.approx(block + 8 * 1000 * 2 * of.layers * of.hidden)
    assert again < whole / 10


def test_vectors_beside_the_gradient_are_counted_in_fp32() -> None:
    of = known_shape("google/gemma-2b")
    assert of is not None
    loop = Loop(precision="bf16_kahan")
    assert needed(of, loop, vectors=2)["vectors"] == 2 * 4 * of.weights
    assert "vectors" not in needed(of, loop)
