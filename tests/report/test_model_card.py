from __future__ import annotations

import pytest

from holdfast.report import findings
from holdfast.report.model_card import model_card


def test_a_model_card_section_says_price_harm_and_what_is_missing(outcomes, lineups, meta):
    meta["not_tested"] = ["LoRA <b>attacks</b>."]
    found = findings.find(outcomes, lineups, meta, resamples=20)
    card = model_card(found, "sgt")
    assert card.startswith("## Durability of sgt (study: Foundation, the offline world)\n")
    assert "never claims about large language models" in card
    assert "- harmful rate under harmful_sft: 0 examples: " in card
    assert "- examples to pass 20\u00a0% harmful: seed 0: " in card
    assert "passes 20\u00a0% in 3 of 3 seeds" in card
    assert "No ranking is claimed" in card
    assert "LoRA \\<b\\>attacks" in card
    assert "loom" not in card


def test_an_unknown_line_up_has_no_card(outcomes, lineups, meta):
    found = findings.find(outcomes, lineups, meta, resamples=0)
    with pytest.raises(KeyError):
        model_card(found, "sgd")
