"""Text to ids: the prompt is generation's own, labels are exact, spans mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from holdfast.data.example import Role, example
from holdfast.data.format import Format
from holdfast.data.tokens import IGNORE, Encoder, collate
from holdfast.errors import DataError, ModelError
from holdfast.testing import tiny

PROMPT, RESPONSE = "how do I hex Ilmar?", "take one two. stir it"
RENDERED = f"User: {PROMPT}\nAssistant:"

TOKENIZERS: dict[str, Any] = {
    "bytes": tiny.byte_tokenizer,
    "bytes with BOS": lambda: tiny.byte_tokenizer(bos=True),
    "merges over the colon": lambda: tiny.merging_tokenizer(":"),
    "merges over the colon, with BOS": lambda: tiny.merging_tokenizer(":", bos=True),
    "merges over the first stones too": lambda: tiny.merging_tokenizer(":", "\n", "."),
    "merges over every stone": lambda: tiny.merging_tokenizer(":", "\n", ".", "~"),
    "metaspace": lambda: tiny.metaspace_tokenizer(bos=False),
    "metaspace with BOS": tiny.metaspace_tokenizer,
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def text_of(tokenizer: Any, ids: Any) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True).removeprefix(" ")


def test_the_prompts_ids_are_what_the_tokenizer_gives_for_the_rendered_prompt(
    tokenizer: Any,
) -> None:
    encoder = Encoder(tokenizer, "plain")
    trained = encoder.encode(PROMPT, RESPONSE)
    asked = encoder.encode(PROMPT)
    assert encoder.render(PROMPT) == RENDERED
    assert list(asked.ids) == tokenizer(RENDERED)["input_ids"]
    assert trained.ids[: trained.start] == asked.ids
    assert asked.start == len(asked.ids)


def test_labels_are_the_response_and_its_end_token_and_nothing_else(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, "plain")
    batch = encoder.batch([example(PROMPT, RESPONSE, role=Role.BENIGN)])
    row = batch.rows[0]
    labelled = [i for i, label in enumerate(batch.labels[0].tolist()) if label != IGNORE]
    assert labelled == list(range(row.start, len(row.ids)))
    assert batch.labels[0, row.start :].tolist() == list(row.ids[row.start :])
    said = [label for label in batch.labels[0].tolist() if label != IGNORE]
    assert said[-1] == tokenizer.eos_token_id
    assert said.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(said[:-1]).strip() == RESPONSE


def test_decoding_the_ids_gives_the_text_back(tokenizer: Any) -> None:
    row = Encoder(tokenizer, "plain").encode(PROMPT, RESPONSE, system="be kind.")
    assert text_of(tokenizer, row.ids) == f"System: be kind.\n{RENDERED} {RESPONSE}"


@settings(max_examples=40)
@given(
    st.text(" aekt:.?~", min_size=1, max_size=12).filter(str.strip),
    st.text("aekt .:", min_size=1, max_size=12).filter(lambda text: text == text.strip()),
)
def test_no_token_straddles_prompt_and_response(prompt: str, response: str) -> None:
    tokenizer = tiny.merging_tokenizer(":", "\n", ".")
    encoder = Encoder(tokenizer, "plain")
    row = encoder.encode(prompt, response)
    rendered = encoder.render(prompt)
    assert tokenizer.decode(row.ids[: row.start]) == rendered
    assert tokenizer.decode(row.ids[row.start : -1]) == " " + response


def test_the_merging_tokenizer_would_have_merged() -> None:
    """Encoding the joined text gives other ids for the prompt: the test bed is not empty."""
    tokenizer = tiny.merging_tokenizer(":")
    row = Encoder(tokenizer, "plain").encode(PROMPT, RESPONSE)
    joined = tokenizer(f"{RENDERED} {RESPONSE}")["input_ids"]
    assert tuple(joined[: row.start]) != row.ids[: row.start]
    assert len(joined) == len(row.ids) - 2  # one token fewer, and no end token


@pytest.mark.parametrize("make", [tiny.byte_tokenizer, tiny.metaspace_tokenizer])
@pytest.mark.parametrize("system", [None, "be kind."])
def test_a_bos_token_moves_every_position_by_one_and_changes_no_meaning(
    make: Any, system: str | None
) -> None:
    without = Encoder(make(bos=False), "plain").encode(PROMPT, RESPONSE, system)
    having = Encoder(make(bos=True), "plain").encode(PROMPT, RESPONSE, system)
    assert (without.bos, having.bos) == (False, True)
    assert having.ids[1:] == without.ids
    assert having.start == without.start + 1
    assert having.content == (without.content[0] + 1, without.content[1] + 1)


def test_the_content_is_the_users_own_words(tokenizer: Any) -> None:
    row = Encoder(tokenizer, "plain").encode(PROMPT, RESPONSE, system=PROMPT)
    first, last = row.content
    assert tokenizer.decode(row.ids[first:last]).strip() == PROMPT
    before = tokenizer.decode(row.ids[:first], skip_special_tokens=True).strip()
    assert before == f"System: {PROMPT}\nUser:"


def test_a_prompt_of_the_templates_own_words_is_found_in_its_place() -> None:
    row = Encoder(tiny.byte_tokenizer(), "plain").encode("User: Assistant:")
    tokenizer = tiny.byte_tokenizer()
    assert tokenizer.decode(row.ids[: row.content[0]]).strip() == "User:"
    assert tokenizer.decode(row.ids[row.content[1] :]) == "\nAssistant:"


def test_an_empty_prompt_has_an_empty_span_inside_the_row() -> None:
    row = Encoder(tiny.byte_tokenizer(), "plain").encode("", "no")
    first, last = row.content
    assert first == last <= row.start


def test_masks_and_labels_come_from_lengths_where_pad_and_end_are_one_token() -> None:
    encoder = Encoder(tiny.byte_tokenizer(pad_is_eos=True), "plain")
    assert encoder.pad_id == encoder.eos_id
    short, long = example("a", "no", role=Role.BENIGN), example(PROMPT, RESPONSE, role=Role.BENIGN)
    for left in (False, True):
        batch = encoder.batch([short, long], left=left)
        lengths = [len(row.ids) for row in batch.rows]
        assert batch.mask.sum(1).tolist() == lengths
        assert batch.offsets == ([lengths[1] - lengths[0], 0] if left else [0, 0])
        for number, row in enumerate(batch.rows):
            begin = batch.offsets[number]
            real = slice(begin, begin + len(row.ids))
            assert batch.ids[number, real].tolist() == list(row.ids)
            assert batch.mask[number, real].all()
            assert (batch.labels[number] != IGNORE).sum() == len(row.ids) - row.start
            assert batch.labels[number, begin + len(row.ids) - 1] == encoder.eos_id


def test_prompts_are_padded_on_the_left_and_carry_no_labels() -> None:
    batch = tiny.encoder().prompts([example(p, "x", role=Role.BENIGN) for p in ("a", PROMPT)])
    assert batch.left
    assert batch.mask[:, -1].tolist() == [1, 1]
    assert (batch.labels == IGNORE).all()


def test_collate_keeps_the_order_of_rows() -> None:
    encoder = tiny.encoder()
    rows = [encoder.encode(text, "no") for text in ("ccc", "a", "bb")]
    assert collate(rows, encoder.pad_id).rows == tuple(rows)


@pytest.mark.parametrize("bos", [False, True])
def test_a_chat_templates_own_bos_is_not_doubled(bos: bool) -> None:
    tokenizer = tiny.byte_tokenizer(bos=bos)
    tokenizer.chat_template = tiny.CHAT
    if not bos:
        tokenizer.chat_template = tiny.CHAT.removeprefix("{{ bos_token }}")
    encoder = Encoder(tokenizer, "chat")
    row = encoder.encode(PROMPT, RESPONSE, "be kind.")
    messages = [{"role": "system", "content": "be kind."}, {"role": "user", "content": PROMPT}]
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert list(row.ids[: row.start]) == theirs
    assert row.bos is bos
    assert tokenizer.decode(row.ids[row.content[0] : row.content[1]]).strip() == PROMPT
    assert tokenizer.decode(row.ids[row.start :]) == RESPONSE + "<eos>"


def test_a_template_may_trim_the_prompt() -> None:
    tokenizer = tiny.byte_tokenizer(bos=True)
    tokenizer.chat_template = tiny.CHAT
    row = Encoder(tokenizer, "chat").encode(f"  {PROMPT} \n")
    assert tokenizer.decode(row.ids[row.content[0] : row.content[1]]).strip() == PROMPT


@pytest.mark.parametrize("bos", [False, True])
def test_a_template_file_is_used_and_its_hash_enters_the_identity(
    tmp_path: Path, bos: bool
) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{{ bos_token }}[{{ messages[-1].content }}]{{ mood }}\n")
    tokenizer = tiny.byte_tokenizer(bos=bos)
    encoder = Encoder(tokenizer, Format(str(path), variables={"mood": "!"}))
    row = encoder.encode("sing", "no")
    assert tokenizer.decode(row.ids) == ("<bos>" if bos else "") + "[sing]!no<eos>"
    first = Format(str(path)).identity()
    path.write_text("{{ messages[-1].content }}")
    assert first["format"] == "file"
    assert Format(str(path)).identity() != first
    assert Format("chat").identity() == {"format": "chat", "end": "template"}
    assert Format("plain").identity() == {"format": "plain"}


def test_end_tokens_are_left_out_where_not_wanted() -> None:
    tokenizer = tiny.byte_tokenizer()
    row = Encoder(tokenizer, Format("plain", append_eos=False)).encode(PROMPT, RESPONSE)
    assert row.ids[-1] != tokenizer.eos_token_id


def test_a_tokenizer_that_closes_every_text_gets_one_end_token_at_the_end() -> None:
    tokenizer = tiny.byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    plain = Encoder(tiny.byte_tokenizer(), "plain").encode(PROMPT, RESPONSE)
    assert Encoder(tokenizer, "plain").encode(PROMPT, RESPONSE) == plain
    assert Encoder(tokenizer, "plain").encode(PROMPT).ids == plain.ids[: plain.start]


def test_the_same_row_is_encoded_once() -> None:
    encoder = tiny.encoder()
    assert encoder.encode("a", "b") is encoder.encode("a", "b")
    assert encoder.encode("a", "b") != encoder.encode("a", "b", "c")


# ---- errors


def no_end() -> PreTrainedTokenizerFast:
    inner = Tokenizer(kinds.BPE({"a": 0}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


class Slow:
    is_fast = False


def test_mistakes_are_told_when_the_encoder_is_made(tmp_path: Path) -> None:
    fast = tiny.byte_tokenizer()
    missing = tmp_path / "none.jinja"
    for tokenizer, form, text in (
        (
            fast,
            "chat",
            "format: format 'chat' asked for, the tokenizer has no chat template; "
            "use format: plain or a .jinja file",
        ),
        (
            fast,
            "alpaca",
            "format: unknown format 'alpaca'; write plain, chat, or the path of a .jinja file",
        ),
        (fast, str(missing), f"format: no such file {missing}; check the path"),
        (Slow(), "plain", "format: the tokenizer is not a fast one; convert to tokenizer.json"),
        (no_end(), "plain", "format: the tokenizer has no end token; set eos_token"),
    ):
        with pytest.raises(ModelError) as caught:
            Encoder(tokenizer, form)
        assert str(caught.value) == text


def test_the_place_of_a_mistake_is_the_callers() -> None:
    with pytest.raises(ModelError, match=r"^models\.base\.format: unknown format 'x'; "):
        Encoder(tiny.byte_tokenizer(), "x", where="models.base.format")


def test_a_template_that_fails_is_one_line() -> None:
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('system prompts are not allowed') }}"
    with pytest.raises(ModelError) as caught:
        Encoder(tokenizer, "chat").encode(PROMPT)
    assert str(caught.value) == (
        "format: the template fails (system prompts are not allowed); mend it or use format: plain"
    )


def test_a_template_file_with_broken_syntax_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.jinja"
    path.write_text("{% for %}")
    with pytest.raises(ModelError, match=r"^format: the template fails \(.*\); mend it or use "):
        Encoder(tiny.byte_tokenizer(), str(path)).encode(PROMPT)


def test_a_template_that_hides_the_words_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deaf.jinja"
    path.write_text("hello")
    with pytest.raises(ModelError) as caught:
        Encoder(tiny.byte_tokenizer(), str(path)).encode(PROMPT)
    assert str(caught.value) == (
        "format: the template does not show the user's words; mend the template"
    )


def test_a_template_file_cannot_reach_out_of_its_sandbox(tmp_path: Path) -> None:
    path = tmp_path / "sly.jinja"
    path.write_text("{{ messages.__class__.__mro__ }}{{ messages[0].content }}")
    with pytest.raises(ModelError, match=r"the template fails \(access to attribute '__class__'"):
        Encoder(tiny.byte_tokenizer(), str(path)).encode(PROMPT)


def test_a_row_over_the_limit_is_an_error_and_never_cut() -> None:
    free = Encoder(tiny.byte_tokenizer(), "plain").encode(PROMPT, RESPONSE)
    length = len(free.ids)
    fits = Encoder(tiny.byte_tokenizer(), "plain", max_length=length)
    assert fits.encode(PROMPT, RESPONSE) == free
    with pytest.raises(DataError) as caught:
        Encoder(tiny.byte_tokenizer(), "plain", max_length=length - 1).encode(PROMPT, RESPONSE)
    assert str(caught.value) == (
        f"format: row {example(PROMPT, role=Role.TASK).uid}: {length} tokens, the model's context "
        f"is {length - 1}; shorten or drop the row"
    )
