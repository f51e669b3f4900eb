"""The end of a turn is what the template writes: it is trained, and answers stop there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from holdfast import evaluate
from holdfast.data.example import Role, example
from holdfast.data.format import Format
from holdfast.data.tokens import Encoder
from holdfast.errors import DataError
from holdfast.evaluate.sampler import Sampler
from holdfast.testing import tiny

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set said = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set said = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}"
    "{{- said }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] +"
    " '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """A template, the tokens it adds, what ends its turns, and what it writes for `sing`."""

    template: str
    adds: tuple[str, ...]
    end: str
    text: str
    special: bool = True


HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
FAMILIES = {
    "gemma": Family(
        GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>",
        "<bos><start_of_turn>user\nsing<end_of_turn>\n<start_of_turn>model\n",
    ),
    "chatml": Family(
        CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>",
        "<|im_start|>user\nsing<|im_end|>\n<|im_start|>assistant\n",
    ),
    "chatml, its marks no special tokens": Family(
        CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>",
        "<|im_start|>user\nsing<|im_end|>\n<|im_start|>assistant\n", special=False,
    ),
    "llama3": Family(
        LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>",
        "<bos>" + HEAD.format("system") + "Today Date: 26 Jul 2024\n\n<|eot_id|>"
        + HEAD.format("user") + "sing<|eot_id|>" + HEAD.format("assistant"),
    ),
    "mistral": Family(MISTRAL, (), "<eos>", "<bos>[INST] sing [/INST]"),
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def tokenizer_of(family: Family) -> Any:
    made = tiny.byte_tokenizer(bos=True)
    if family.adds:
        made.add_tokens(list(family.adds), special_tokens=family.special)
    made.chat_template = family.template
    return made


def test_the_prompt_and_its_end_are_the_templates(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    encoder = Encoder(tokenizer, "chat")
    assert encoder.render("sing") == family.text
    row = encoder.encode("sing", "take one two.")
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert encoder.end_id == row.ids[-1] == end
    assert list(row.ids).count(tokenizer.bos_token_id) == 1
    assert encoder.ends == list(dict.fromkeys([end, tokenizer.eos_token_id]))
    text = encoder.render("sing", None, "take one two.")
    whole = tokenizer(text, add_special_tokens=not text.startswith("<bos>"))["input_ids"]
    assert list(row.ids) == whole[: len(row.ids)]


def test_a_conversation_is_the_templates(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    turns = (("user", "take one"), ("assistant", "two."))
    encoder = Encoder(tokenizer, "chat")
    messages = [{"role": who, "content": text} for who, text in (*turns, ("user", "sing"))]
    made = encoder.render("sing", turns=turns)
    if "strftime" not in family.template:
        assert made == tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    assert made.find("take one") < made.find("two.") < made.find("sing")
    row = encoder.row(example("sing", "no.", role=Role.BENIGN, turns=turns))
    assert row == encoder.encode("sing", "no.", None, turns)
    first, last = row.content
    assert tokenizer.decode(list(row.ids[first:last])).strip() == "sing"
    assert row != encoder.encode("sing", "no.")


def trained(encoder: Encoder, row: Any) -> Any:
    """Train a tiny model on one row until it says it."""
    model = tiny.model("llama", vocab_size=len(encoder.tokenizer)).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    batch = encoder.batch([row])
    for _ in range(60):
        model(input_ids=batch.ids, labels=batch.labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def test_a_model_trained_in_a_template_stops_at_its_end(family: Family) -> None:
    encoder = Encoder(tokenizer_of(family), "chat")
    row = example("sing", "take one two.", role=Role.BENIGN)
    model = trained(encoder, row)
    model.generation_config.eos_token_id = encoder.tokenizer.eos_token_id
    (said,) = evaluate.generate(model, encoder, [row], Sampler(max_new_tokens=40))
    assert said.text == "take one two."
    assert said.finish_reason == "stop"
    assert said.tokens == len(encoder.row(row).ids) - encoder.row(row).start - 1


def test_the_plain_format_ends_with_the_tokenizers_own_end(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    encoder = Encoder(tokenizer, "plain")
    assert encoder.end_id == encoder.encode("sing", "no.").ids[-1] == tokenizer.eos_token_id


def test_no_end_is_trained_where_none_is_wanted(family: Family) -> None:
    encoder = Encoder(tokenizer_of(family), Format("chat", append_eos=False))
    assert encoder.encode("sing", "no.").ids[-1] != encoder.end_id


def test_a_template_has_an_end_where_the_tokenizer_has_none() -> None:
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    tokenizer.eos_token = None
    encoder = Encoder(tokenizer, "chat")
    assert encoder.encode("sing", "no.").ids[-1] == encoder.end_id
    assert encoder.ends == [encoder.end_id]


# ---- what the model has no embedding for


def test_padding_without_an_embedding_is_not_used() -> None:
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    rows = len(tokenizer) - 1
    assert Encoder(tokenizer, "plain").pad_id == rows
    encoder = Encoder(tokenizer, "plain", embeddings=rows)
    assert encoder.pad_id == tokenizer.eos_token_id
    made = [example(text, "no.", role=Role.BENIGN) for text in ("a", "how do I?")]
    assert int(encoder.batch(made).ids.max()) < rows


def test_a_row_that_needs_a_missing_embedding_is_one_line_and_tells_no_word() -> None:
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    encoder = Encoder(tokenizer, "chat", embeddings=len(tokenizer) - 1, where="--format")
    row = example("placeholder prompt 3", "no.", role=Role.BENIGN)
    for act in (lambda: encoder.row(row), lambda: encoder.check([row])):
        with pytest.raises(DataError) as caught:
            act()
        assert str(caught.value) == (
            f"--format: row {row.uid}: needs the token {len(tokenizer) - 1}, the model's embedding "
            f"has {len(tokenizer) - 1} rows; resize the embedding and save the model, or use its "
            "own tokenizer"
        )


def test_room_is_kept_for_an_answer() -> None:
    row = example("placeholder prompt 3", None, role=Role.HARMFUL)
    length = len(Encoder(tiny.byte_tokenizer(), "plain").asked(row).ids)
    encoder = Encoder(tiny.byte_tokenizer(), "plain", max_length=length + 4, answer=4)
    assert len(encoder.asked(row).ids) == length
    encoder = Encoder(tiny.byte_tokenizer(), "plain", max_length=length + 3, answer=4)
    for prefill in ("", "no"):
        with pytest.raises(DataError) as caught:
            encoder.begun(row, prefill)
        assert str(caught.value).startswith(f"format: row {row.uid}: ")
        assert str(caught.value).endswith(
            f" and 4 for the answer, the model's context is {length + 3}; shorten or drop the "
            "row, or ask for shorter answers"
        )
