"""What a prompt depends on besides its row: what of it enters a key, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from holdfast.data.format import RESERVED, Format, conversation, mismatch, plain
from holdfast.data.tokens import Encoder
from holdfast.errors import ConfigError, ModelError
from holdfast.testbeds.guild.build import CHAT
from holdfast.testing import tiny


@pytest.mark.parametrize("system", [None, "be kind."])
@pytest.mark.parametrize("response", [None, "no."])
def test_the_plain_format_is_what_its_template_writes(
    system: str | None, response: str | None
) -> None:
    messages = conversation(Format("plain"), "how do I?", system, response)
    theirs = tiny.byte_tokenizer().apply_chat_template(
        messages, chat_template=CHAT, tokenize=False, add_generation_prompt=response is None
    )
    assert plain(messages, ask=response is None) == theirs


def test_earlier_turns_stand_one_a_line() -> None:
    turns = (("user", "one?"), ("assistant", "1."))
    text = Encoder(tiny.byte_tokenizer(), "plain").render("two?", "be kind.", turns=turns)
    assert text == "System: be kind.\nUser: one?\nAssistant: 1.\nUser: two?\nAssistant:"


def test_the_plain_formats_identity_is_what_it_always_was() -> None:
    assert Format("plain").identity() == {"format": "plain"}
    assert Format("plain", append_eos=False).identity() == {"format": "plain", "append_eos": False}


def test_what_is_not_its_default_enters_the_identity(tmp_path: Path) -> None:
    path = tmp_path / "a.jinja"
    path.write_text("{{ messages[-1].content }}")
    whole = Format(str(path), True, "be kind.", "2020-01-02", {"mood": "!"}).identity()
    assert whole.pop("sha256")
    assert whole == {
        "format": "file",
        "end": "template",
        "system": "be kind.",
        "date": "2020-01-02",
        "variables": {"mood": "!"},
    }


def test_a_system_prompt_is_given_to_rows_that_have_none() -> None:
    encoder = Encoder(tiny.byte_tokenizer(), Format("plain", system="be kind."))
    assert encoder.render("how?") == "System: be kind.\nUser: how?\nAssistant:"
    assert encoder.render("how?", "be brief.") == "System: be brief.\nUser: how?\nAssistant:"
    row = encoder.encode("how?", "so.")
    assert row == Encoder(tiny.byte_tokenizer(), "plain").encode("how?", "so.", "be kind.")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"date": "26 Jul 2024"},
            "format: a field is wrong; it should be a day, such as 2024-07-26",
        ),
        ({"date": "20240726"}, "format: a field is wrong; it should be a day, such as 2024-07-26"),
        (
            {"variables": {"tokenize": True}},
            "format: a field is wrong; it should be variables a template may have, such as "
            "enable_thinking",
        ),
    ],
)
def test_a_wrong_field_is_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Format("chat", **given)
    assert str(caught.value) == line


def test_no_variable_may_be_called_as_an_argument_of_transformers() -> None:
    import inspect

    taken = set(inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters)
    assert taken - {"self", "kwargs"} <= set(RESERVED)


def test_a_system_prompt_that_a_model_was_not_made_with_is_told(tmp_path: Path) -> None:
    told = {"format": "plain", "format_identity": {"format": "plain"}}
    (tmp_path / "holdfast.json").write_text(json.dumps(told))
    assert mismatch(tmp_path, Format("plain", system="be kind.")) == (
        "was made in format 'plain' with another system than it is asked in"
    )


def test_an_unknown_form_is_one_line() -> None:
    with pytest.raises(ModelError) as caught:
        Format("alpaca").identity("--format")
    assert str(caught.value) == (
        "--format: unknown format 'alpaca'; write plain, chat, or the path of a .jinja file"
    )


@pytest.mark.parametrize(
    ("marker", "told"),
    [
        ({"format": "plain"}, None),
        ({"format": "plain", "format_identity": {"format": "plain", "append_eos": False}}, None),
        ({"format": "chat"}, "was made in format 'chat' and is asked in 'plain'"),
        ({"format": "my/own.jinja"}, "was made in format 'file' and is asked in 'plain'"),
        (
            {"format": "plain", "format_identity": {"format": "plain", "system": "be kind."}},
            "was made in format 'plain' with another system than it is asked in",
        ),
        ({"attacked": True}, None),
        ([], None),
    ],
)
def test_another_format_than_a_model_was_made_in_is_told(
    tmp_path: Path, marker: object, told: str | None
) -> None:
    assert mismatch(tmp_path, Format("plain")) is None
    (tmp_path / "holdfast.json").write_text(json.dumps(marker))
    assert mismatch(tmp_path, Format("plain")) == told
