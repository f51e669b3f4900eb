"""Why an answer ended: servers and engines have many words for two things."""

from __future__ import annotations

STOP, LENGTH = "stop", "length"

SPELLINGS = {
    "stop": STOP, "eos": STOP, "eos_token": STOP, "end_turn": STOP, "stop_sequence": STOP,
    "length": LENGTH, "max_tokens": LENGTH, "max_length": LENGTH, "max_output_tokens": LENGTH,
}  # fmt: skip
"""In small letters; source: the APIs of OpenAI, Anthropic, Google and Hugging Face."""


def ended(word: str) -> str:
    """Give `stop` or `length` for a word that means it; any other word as it is."""
    return SPELLINGS.get(word.casefold(), word)
