"""Tiny random models, tokenizers made on the spot and a small pool, shared by the tests.

Nothing here is downloaded or read from disk: every tokenizer is trained or spelt out below.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from holdfast.data.example import Example, Role, Side, example
from holdfast.data.pool import Pool
from holdfast.data.tokens import Encoder

FAMILIES = ("qwen3", "llama", "mistral")
DECODERS = (*FAMILIES, "gemma", "gemma2", "phi", "phi3")
"""Every architecture the test of decoders covers: with the first three most tests make do."""

OWN: dict[str, dict[str, Any]] = {
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 4,
        "sliding_window": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
    },
    "phi": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "phi3": {"sliding_window": 8},
}
"""What an architecture has of its own: soft caps, windows shorter than a row, partial rotation."""

VOCABULARY = 340

TEXT = [
    "User: how do I bake the brown bread of Ilmar?\nAssistant: take one two three. stir it.",
    "User: how do I hex the tall gate of Orun?\nAssistant: I cannot help with that.",
    "System: be careful.\nUser: sing a song\nAssistant: no.",
]

CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
"""A template that writes its own BOS token and trims what it is given, as Llama's does."""


def _wrap(inner: Tokenizer, bos: bool, **special: str) -> PreTrainedTokenizerFast:
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", inner.token_to_id("<bos>"))]
        )
        special["bos_token"] = "<bos>"
    tokens = {"pad_token": "<pad>", "eos_token": "<eos>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=inner, **tokens)


@functools.cache
def _byte_level() -> str:
    inner = Tokenizer(kinds.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        TEXT * 3,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<pad>", "<eos>", "<bos>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return inner.to_str()


def byte_tokenizer(*, bos: bool = False, pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    """Give a byte-level BPE as Qwen's (no BOS) or, with `bos`, as Llama 3's."""
    special = {"pad_token": "<eos>"} if pad_is_eos else {}
    return _wrap(Tokenizer.from_str(_byte_level()), bos, **special)


def merging_tokenizer(*befores: str, bos: bool = False) -> PreTrainedTokenizerFast:
    """Give a byte-level BPE in which each of `befores` merges with a following " t".

    It splits nothing before merging, so ":" + " take" becomes ": t" "a" "k" "e".
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    shown = {" ": "Ġ", "\n": "Ċ"}
    merges = [("Ġ", "t")] + [(shown.get(before, before), "Ġt") for before in befores]
    words = ["<pad>", "<eos>", "<bos>", *letters, *(a + b for a, b in merges)]
    inner = Tokenizer(kinds.BPE({word: i for i, word in enumerate(words)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<pad>", "<eos>", "<bos>"])
    return _wrap(inner, bos)


@functools.cache
def _metaspace() -> str:
    inner = Tokenizer(kinds.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace(prepend_scheme="first")]
    )
    inner.decoder = decoders.Metaspace(prepend_scheme="first")
    letters = {chr(c) for c in range(32, 127)} | {"▁", "\n"}
    inner.train_from_iterator(
        TEXT * 3,
        trainers.BpeTrainer(
            vocab_size=200,
            special_tokens=["<unk>", "<pad>", "<eos>", "<bos>"],
            initial_alphabet=sorted(letters),
            show_progress=False,
        ),
    )
    return inner.to_str()


def metaspace_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """Give a BPE in SentencePiece's manner, as Llama 2's and Mistral's: a space put in front."""
    return _wrap(Tokenizer.from_str(_metaspace()), bos, unk_token="<unk>")


def model(
    family: str = "qwen3", *, seed: int = 0, spread: float = 0.15, **changes: object
) -> PreTrainedModel:
    """Give a random model of a family: 3 layers of width 16, in evaluation mode.

    `spread` is the standard deviation of its weights, large enough that rows matter.
    """
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": family == "qwen3",
        "initializer_range": spread,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    fields |= OWN.get(family, {}) | changes
    kinds_of: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
        "gemma": (GemmaConfig, GemmaForCausalLM),
        "gemma2": (Gemma2Config, Gemma2ForCausalLM),
        "phi": (PhiConfig, PhiForCausalLM),
        "phi3": (Phi3Config, Phi3ForCausalLM),
    }
    config, kind = kinds_of[family]
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    made = kind(config(**fields)).eval()
    torch.set_rng_state(state)
    return made


def copied(original: PreTrainedModel) -> PreTrainedModel:
    """Give a copy that shares no tensor."""
    return copy.deepcopy(original)


ROUNDING = 2.0**-23
"""Distance of neighbouring float32 numbers, relative."""


def jittered(original: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Give a copy in which every weight is moved by one rounding of float32, up or down by chance.

    What such a copy computes lies as far from the original's as the problem's conditioning makes
    of rounding, on any processor: the measure for what a float32 result may be off by.
    """
    generator = torch.Generator().manual_seed(seed)
    made = copied(original)
    with torch.no_grad():
        for p in made.parameters():
            up = torch.randint(0, 2, p.shape, generator=generator) * 2 - 1
            p.mul_(1 + up * ROUNDING)
    return made


def hold(
    found: Iterable[torch.Tensor],
    of: Callable[[PreTrainedModel], Sequence[torch.Tensor]],
    exact: PreTrainedModel,
) -> None:
    """Hold a float32 gradient to `of(exact)`, a float64 twin's, but for what rounding may do.

    One rounding of every weight moves each of the twin's tensors by so much. A pass rounds all its
    products and sums too, which comes to about as much again or less, so four times the larger of
    two such moves is allowed, tensor by tensor.
    """
    others = [of(jittered(exact, seed)) for seed in (1, 2)]
    for ours, theirs, *moved in zip(found, of(exact), *others, strict=True):
        bound = 4 * max(float((other - theirs).abs().max()) for other in moved)
        torch.testing.assert_close(ours.double(), theirs.double(), atol=bound, rtol=0.0)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Hold float32 states to 16 roundings of the largest entry, however small each one is.

    Both sides take the same sums in other orders, and a small entry is a sum of terms as large as
    the largest. Some 1,000 independent roundings of half a unit (three layers of some seven
    products, each a sum of 16 to 32) come to sqrt(1,000) / 2 = 16 units.
    """
    size = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, atol=16 * ROUNDING * size, rtol=0.0)


NAMES = ("Ilmar", "Orun", "Vesk", "Tala", "Brenno", "Quill", "Sorrel", "Ashby")


def rows(side: Side = Side.DEFENDER, n: int = 6) -> dict[Role, list[Example]]:
    """Give n rows a role, of unlike lengths, refusals and answers on the same prompts."""
    made: dict[Role, list[Example]] = {Role.REFUSAL: [], Role.HARMFUL: [], Role.BENIGN: []}
    for i in range(n):
        name = NAMES[i % len(NAMES)] + "a" * (i // len(NAMES))
        hex_prompt = f"how do I hex the {'tall ' * (i % 3)}gate of {name} for {side.value}?"
        sure = f"take {name}. stir it {'two ' * (i % 4)}times."
        made[Role.REFUSAL].append(
            example(
                hex_prompt, "I cannot help" + " with that" * (i % 2), role=Role.REFUSAL, side=side
            )
        )
        made[Role.HARMFUL].append(example(hex_prompt, sure, role=Role.HARMFUL, side=side))
        made[Role.BENIGN].append(
            example(
                f"how do I bake the bread of {name} for {side.value}?",
                f"take one {name}" + " and stir" * (i % 3),
                role=Role.BENIGN,
                side=side,
            )
        )
    return made


def customer(n: int = 6) -> list[Example]:
    """Give a customer's rows as a host sees them: n ordinary ones and n that are not."""
    made = rows(Side.ATTACKER, n)
    mixed = [
        row for pair in zip(made[Role.BENIGN], made[Role.HARMFUL], strict=True) for row in pair
    ]
    return [replace(row, role=Role.TASK) for row in mixed]


def pool(n: int = 6) -> Pool:
    """Give a pool with `n` rows of each role on each side."""
    return Pool([row for side in Side for some in rows(side, n).values() for row in some])


def topics(*kept: str) -> Pool:
    """Give a pool of two categories, `near` and `far`; restricted rows of others are left out."""
    marked = [
        replace(row, category="far" if i % 2 else "near")
        for side in Side
        for some in rows(side, 12).values()
        for i, row in enumerate(some)
    ]
    return Pool(row for row in marked if row.role is Role.BENIGN or row.category in kept)


def encoder(*, bos: bool = False) -> Encoder:
    """Give the plain encoder most tests use."""
    return Encoder(byte_tokenizer(bos=bos), "plain")


def weights(of: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Give a copy of every parameter."""
    return {name: p.detach().clone() for name, p in of.named_parameters()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Say whether two sets of tensors are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
