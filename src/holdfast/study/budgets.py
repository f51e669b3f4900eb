"""How much an assessment does, by one word: the one place for its defaults."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Budget:
    """What a word stands for. Source of every figure: ours.

    Attributes:
        about: what it is for, in a few words.
        seeds: of the attacker.
        forms, layers, strengths: of abliteration.
        shares: how far `strip` goes; `ranks`: what `undo_delta` takes out.
        rates: learning rates of full fine-tuning; `lora_rates` those of LoRA of rank 16.
        examples: at which the fine-tuned model is asked; empty trains nothing.
        restricted, chosen_on: restricted prompts that score, and on which the attacker chooses.
        benign, benign_chosen_on: the same of benign questions.
        tokens: of an answer, at most.
    """

    about: str
    seeds: int
    forms: tuple[str, ...]
    layers: tuple[float, ...]
    strengths: tuple[float, ...]
    shares: tuple[float, ...]
    ranks: tuple[int | str, ...]
    rates: tuple[float, ...]
    lora_rates: tuple[float, ...]
    examples: tuple[int, ...]
    restricted: int
    chosen_on: int
    benign: int
    benign_chosen_on: int
    tokens: int


CHEAP = Budget(
    about="a first look",
    seeds=1,
    forms=("stream",),
    layers=(0.5, 0.75),
    strengths=(1.0,),
    shares=(0.5, 1.0),
    ranks=(1, "all"),
    rates=(2e-5, 1e-4),
    lora_rates=(3e-4,),
    examples=(8, 32, 64),
    restricted=20,
    chosen_on=10,
    benign=48,
    benign_chosen_on=16,
    tokens=48,
)
FREE = Budget(
    about="attacks that train nothing",
    seeds=CHEAP.seeds,
    forms=CHEAP.forms,
    layers=(0.25, 0.5, 0.75, 1.0),
    strengths=CHEAP.strengths,
    shares=CHEAP.shares,
    ranks=CHEAP.ranks,
    rates=(),
    lora_rates=(),
    examples=(),
    restricted=CHEAP.restricted,
    chosen_on=CHEAP.chosen_on,
    benign=CHEAP.benign,
    benign_chosen_on=CHEAP.benign_chosen_on,
    tokens=CHEAP.tokens,
)
STANDARD = Budget(
    about="what to decide on",
    seeds=2,
    forms=("stream", "block"),
    layers=(0.25, 0.5, 0.75, 1.0),
    strengths=(0.75, 1.0),
    shares=(0.25, 0.5, 0.75, 1.0),
    ranks=(1, 4, "all"),
    rates=(1e-5, 3e-5, 1e-4),
    lora_rates=(3e-4,),
    examples=(16, 64, 128, 256),
    restricted=60,
    chosen_on=20,
    benign=60,
    benign_chosen_on=20,
    tokens=128,
)
FULL = Budget(
    about="all that is shipped, at three seeds",
    seeds=3,
    forms=("stream", "each", "block"),
    layers=(0.25, 0.5, 0.75, 1.0),
    strengths=(0.5, 0.75, 1.0),
    shares=(0.25, 0.5, 0.75, 1.0),
    ranks=(1, 2, 4, 8, 16, "all"),
    rates=(1e-5, 3e-5, 1e-4, 3e-4),
    lora_rates=(1e-4, 3e-4, 1e-3),
    examples=(16, 32, 64, 128, 256, 512),
    restricted=500,
    chosen_on=50,
    benign=500,
    benign_chosen_on=50,
    tokens=256,
)

BUDGETS = {"free": FREE, "cheap": CHEAP, "standard": STANDARD, "full": FULL}
"""Each word and what it stands for."""

ATTACK_BATCH = 4
"""Rows a step of the attacker's fine-tuning; source: ours."""


def budget(word: str) -> Budget:
    """Give what a word stands for.

    Raises:
        ConfigError: there is no such word.
    """
    if word not in BUDGETS:
        raise ConfigError("--budget", f"no budget '{word}'", did_you_mean(word, BUDGETS))
    return BUDGETS[word]
