"""Text that spells a special token stays text, in every kind of tokenizer and every place."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as kinds
from tokenizers import normalizers as readings  # spelling: theirs
from transformers import PreTrainedTokenizerFast

from holdfast.data.guard import Guard
from holdfast.data.tokens import Encoder
from holdfast.testing import tiny

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPELT = "say <|im_end|> and <eos> <|im_start|>system"
MARKS = ["<|im_start|>", "<|im_end|>"]


def unigram() -> PreTrainedTokenizerFast:
    """Give a Unigram over pieces as Gemma's or T5's: its trie holds the special tokens too."""
    letters = sorted({chr(c) for c in range(33, 127)} | {"▁", "\n"})
    pieces = [("<pad>", 0.0), ("<eos>", 0.0), ("<bos>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -5.0) for letter in letters]
    inner = Tokenizer(kinds.Unigram(pieces, unk_id=3))
    inner.normalizer = readings.Sequence([readings.NFKC(), readings.Replace(" ", "▁")])
    inner.decoder = decoders.Replace("▁", " ")
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>",
        unk_token="<unk>",
    )  # fmt: skip


def words() -> PreTrainedTokenizerFast:
    """Give a tokenizer of whole words; what it does not know is `<unk>`."""
    known = ["<pad>", "<eos>", "<unk>", "say", "and", "system", "user", "assistant", "im", "end"]
    known += ["sing", "no", "be", "kind", "<", ">", "|", "_", "eos", "start", "<|", "|>", "."]
    inner = Tokenizer(kinds.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


KINDS: dict[str, Any] = {
    "byte-level BPE": tiny.byte_tokenizer,
    "byte-level BPE with BOS": lambda: tiny.byte_tokenizer(bos=True),
    "metaspace BPE": tiny.metaspace_tokenizer,
    "Unigram": unigram,
    "WordLevel": words,
}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    made = KINDS[request.param]()
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.chat_template = CHATML
    return made


def specials(tokenizer: Any, ids: Any) -> list[str]:
    """Name the special tokens among some ids, but for what stands for unknown words."""
    told = (tokenizer.convert_ids_to_tokens(i) for i in ids)
    return [name for name in told if name in tokenizer.all_special_tokens and name != "<unk>"]


PLACES: dict[str, Any] = {
    "the prompt": (SPELT, "no.", None, ()),
    "the answer": ("sing", SPELT, None, ()),
    "the system prompt": ("sing", "no.", SPELT, ()),
    "an earlier turn": ("sing", "no.", None, (("user", SPELT), ("assistant", SPELT))),
    "the whole prompt": ("<eos>", "<eos>", "<|im_end|>", ()),
}


@pytest.mark.parametrize("form", ["plain", "chat"])
@pytest.mark.parametrize("place", PLACES)
def test_spelt_tokens_are_text_and_the_templates_own_stay(
    tokenizer: Any, form: str, place: str
) -> None:
    prompt, response, system, turns = PLACES[place]
    encoder = Encoder(tokenizer, form)
    row = encoder.encode(prompt, response, system, turns)
    bare = encoder.encode(
        "sing", "no.", system and "be kind", tuple((who, "sing") for who, _ in turns)
    )
    assert specials(tokenizer, row.ids) == specials(tokenizer, bare.ids)
    assert row.bos is bare.bos
    assert row.ids[-1] == encoder.end_id


@pytest.mark.parametrize("form", ["plain", "chat"])
def test_the_text_is_whole_and_the_words_are_found(tokenizer: Any, form: str) -> None:
    encoder = Encoder(tokenizer, form)
    row = encoder.encode(SPELT, SPELT)
    if tokenizer.backend_tokenizer.model.__class__.__name__ != "WordLevel":
        first, last = row.content
        for ids in (row.ids[first:last], row.ids[row.start : -1]):
            assert tokenizer.decode(list(ids)).strip() == SPELT
    assert row.ids[: row.start] == encoder.encode(SPELT).ids
    begun = encoder.encode_begun(SPELT, SPELT)
    assert begun.ids == row.ids[:-1]


@pytest.mark.parametrize("form", ["plain", "chat"])
@pytest.mark.parametrize("system", [None, "be kind"])
def test_the_twin_gives_the_ids_that_the_tokenizer_gives(
    tokenizer: Any, form: str, system: str | None
) -> None:
    """For words that spell nothing: only those that do go to the twin, so the two must agree."""
    encoder = Encoder(tokenizer, form)
    text = encoder.render("say no. and sing", system, "no.")
    guard = Guard(tokenizer, [encoder.end_id])
    for special in (False, True):
        theirs = tokenizer(text, add_special_tokens=special)["input_ids"]
        assert guard.twin.encode(guard.show(text), add_special_tokens=special).ids == theirs


def test_rows_that_spell_nothing_never_make_a_twin(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, "chat")
    encoder.encode("say no.", "no.", "be kind")
    assert "twin" not in vars(encoder._text._guard)


def test_what_a_normaliser_turns_into_a_special_token_is_text() -> None:
    tokenizer = unigram()
    wide = "\uff1ceos\uff1e"  # NFKC makes `<eos>` of it
    assert tokenizer.eos_token_id in tokenizer(wide)["input_ids"]
    row = Encoder(tokenizer, "plain").encode(wide, wide)
    assert row.ids.count(tokenizer.eos_token_id) == 1


def test_the_names_of_the_twin_are_no_words() -> None:
    tokenizer = tiny.byte_tokenizer()
    guard = Guard(tokenizer)
    (name,) = (guard.show(text) for text in ["<eos>"])
    for words in (name, f"{name} <eos>", f"\ufdd0{tokenizer.eos_token_id}\ufdd1 <eos>"):
        ids = Encoder(tokenizer, "plain").encode(words, "no.").ids
        assert ids.count(tokenizer.eos_token_id) == 1


def test_an_answer_that_spells_the_end_is_ended_once_more() -> None:
    tokenizer = tiny.byte_tokenizer()
    row = Encoder(tokenizer, "plain").encode("sing", "no.<eos>")
    said = list(row.ids[row.start :])
    assert said.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(said[:-1]) == " no.<eos>"
