"""Templates of somebody else's: transformers' environment, a fixed day, bounds, no words told."""

from __future__ import annotations

import resource
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from holdfast.data.format import Format
from holdfast.data.templates import LONGEST, Template, Unloaded, limited
from holdfast.data.tokens import Encoder
from holdfast.errors import HoldfastError, ModelError
from holdfast.testing import tiny

ASKED = [{"role": "user", "content": "placeholder prompt 3"}]
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% if a == b %}{% endif %}"
    "{% endfor %}{% endfor %}"
)


def file(folder: Path, text: str) -> str:
    path = folder / "mine.jinja"
    path.write_bytes(text.encode("utf-8"))
    return str(path)


def rendered(folder: Path, text: str, **given: Any) -> str:
    made = Template(tiny.byte_tokenizer(bos=True), Format(file(folder, text), **given), "format")
    return made.render(ASKED, ask=True)


def test_without_its_tokenizer_a_template_writes_the_same_but_for_special_tokens() -> None:
    text = (
        "{{ bos_token }}{%- for m in messages %}\n{% if loop.first %}{{ strftime_now('%d %B') }}"
        "{% endif %}\n<{{ m.role }}>{{ m['content'] | trim }}{{ wide * 2 }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
    )
    given = Format("chat", variables={"wide": "ab"})
    tokenizer = tiny.byte_tokenizer(bos=True)
    tokenizer.chat_template = text
    whole = Template(tokenizer, given, "format").render(ASKED, ask=True)
    assert Unloaded(text, given).written(ASKED) == whole.replace(tokenizer.bos_token, "<>")


@pytest.mark.parametrize(
    "text",
    ["{% for", "{{ x.y.z }}", "{{ raise_exception('no') }}", "{{ 'x' * 4000000000 }}",
     "{{ 9 ** (9 ** 9) }}", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "{% if 1 %}" * 5000],
    ids=["cut", "unknown", "raises", "long", "power", "brackets", "deep"],
)  # fmt: skip
def test_a_template_that_fails_without_its_tokenizer_is_left_to_the_whole_one(text: str) -> None:
    assert Unloaded(text, Format("chat")).written(ASKED) is None


@pytest.mark.parametrize("more", ["", "{% generation %}"])
def test_a_power_is_refused_before_it_is_reckoned(tmp_path: Path, more: str) -> None:
    with pytest.raises(ModelError) as caught:
        rendered(tmp_path, more + "{{ 9 ** (9 ** 9) }}")
    assert "the template raises to a power (`**`); mend it or use format: plain" in str(
        caught.value
    )


@pytest.mark.parametrize("asks", ["{{ 'x' * 4000000000 }}", "{{ '%3000000000d' % 1 }}"])
def test_a_template_that_asks_for_all_memory_is_one_line(tmp_path: Path, asks: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(ModelError) as caught:
        rendered(tmp_path, asks)
    assert str(caught.value) == (
        "format: the template fails (MemoryError); mend it or use format: plain"
    )
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_what_swallows_the_first_warning_ends_at_the_second() -> None:
    def spin() -> None:
        while True:
            pass

    def swallow() -> None:  # as Jinja does where it reckons beforehand
        with suppress(TimeoutError):
            spin()
        spin()

    with pytest.raises(TimeoutError), limited(0.05):
        swallow()


@pytest.mark.parametrize("end", [ENDLESS, "{{ strftime_now('%d') }}" + ENDLESS])
def test_a_template_without_end_is_one_line(tmp_path: Path, end: str) -> None:
    began = time.process_time()
    with pytest.raises(ModelError) as caught:
        rendered(tmp_path, end)
    assert time.process_time() - began < 10
    assert str(caught.value) == (
        "format: the template does not end within 2 s; mend it or use format: plain"
    )


def test_a_template_without_end_is_one_line_in_another_thread(tmp_path: Path) -> None:
    told: list[str] = []

    def run() -> None:
        try:
            rendered(tmp_path, ENDLESS)
        except ModelError as error:
            told.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert told == ["format: the template does not end within 2 s; mend it or use format: plain"]


def test_a_template_may_not_write_without_measure(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        rendered(tmp_path, "{% for a in range(90000) %}twelve lines{% endfor %}")
    assert LONGEST < 90_000 * 12
    assert str(caught.value) == (
        "format: the template writes 1,080,000 characters; mend it or use format: plain"
    )


def test_a_file_has_what_the_tokenizers_own_template_has(tmp_path: Path) -> None:
    text = (
        "{%- generation -%}{{ messages[0].content }}{%- endgeneration -%}"
        "{{ [1, 2] | tojson }}{% for a in [1, 2] %}{% if a == 2 %}{% break %}{% endif %}{{ a }}"
        "{% endfor %}"
    )
    assert rendered(tmp_path, text) == "placeholder prompt 3[1, 2]1"
    with pytest.raises(ModelError) as caught:
        rendered(tmp_path, "{{ raise_exception('turns must alternate') }}")
    assert str(caught.value) == (
        "format: the template fails (turns must alternate); mend it or use format: plain"
    )


def test_a_templates_error_tells_no_word_of_the_conversation(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        rendered(tmp_path, "{{ raise_exception('no: ' + messages[0].content) }}")
    assert str(caught.value) == (
        "format: the template fails (TemplateError); mend it or use format: plain"
    )


def test_the_day_is_the_formats_and_not_todays(tmp_path: Path) -> None:
    text = "  {% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    assert rendered(tmp_path, text) == "26 Jul 2024"
    assert rendered(tmp_path, text, date="2020-01-02") == "02 Jan 2020"
    assert rendered(tmp_path, "{{ strftime_now('%-d. %B, %A') }}") == "26. July, Friday"


def test_variables_reach_the_template(tmp_path: Path) -> None:
    text = "{{ messages[0].content }}{% if enable_thinking is false %}<think></think>{% endif %}"
    assert rendered(tmp_path, text) == "placeholder prompt 3"
    told = rendered(tmp_path, text, variables={"enable_thinking": False})
    assert told == "placeholder prompt 3<think></think>"


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    bare, marked = "{{ messages[0].content }}", "\ufeff{{ messages[0].content }}"
    ids = [
        Encoder(tiny.byte_tokenizer(), file(tmp_path, text)).encode("sing").ids
        for text in (bare, marked)
    ]
    assert ids[0] == ids[1]


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.jinja"
    path.write_bytes(b"caf\xe9 {{ messages[0].content }}")
    with pytest.raises(HoldfastError) as caught:
        Encoder(tiny.byte_tokenizer(), str(path))
    assert str(caught.value).startswith(f"{path}:1: is not UTF-8")


def test_one_of_several_templates_is_to_be_named() -> None:
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = {"one": "{{ messages }}", "two": "{{ messages }}"}
    with pytest.raises(ModelError) as caught:
        Encoder(tokenizer, "chat")
    assert str(caught.value) == (
        "format: the tokenizer has several chat templates, none called 'default'; write the one "
        "you mean into a .jinja file and name that"
    )


def test_the_limit_leaves_the_callers_timer_and_tracing_alone(tmp_path: Path) -> None:
    import signal
    import sys

    before, traced = signal.getsignal(signal.SIGVTALRM), sys.gettrace()
    rendered(tmp_path, "{{ messages[0].content }}")
    assert signal.getsignal(signal.SIGVTALRM) is before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert sys.gettrace() is traced
