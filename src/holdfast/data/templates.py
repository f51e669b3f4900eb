"""Chat templates, programs of somebody else's: rendered by transformers, within bounds."""

from __future__ import annotations

import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.data.format import Format, Message, day
from holdfast.data.records import read_text
from holdfast.errors import ModelError

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import TraceFunction
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

SECONDS = 2.0
"""Processor time one rendering may take; it takes about a ten-thousandth of a second."""

ROOM = 2**26
"""Bytes by which the process may grow meanwhile."""

LONGEST = 1_000_000
"""Characters a template may write beside the words it is given."""

_CODES = "aAbBcdDeFgGhHIjmMnpSTuUVwWxXyYzZ"
"""Letters that `strftime` knows behind a percent sign; glibc's `-` drops a leading zero."""


class Template:
    """A template with all that it depends on but the conversation.

    Args:
        tokenizer: gives the special tokens, and under `chat` the template.
        format: of form `chat` or a .jinja file.
        where: what an error begins with.

    Raises:
        ModelError: no template for `chat`, a file that cannot be read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, format: Format, where: str) -> None:
        self._tokenizer, self._where = tokenizer, where
        self._variables: dict[str, Any] = dict(format.variables)
        text = _own(tokenizer, where) if format.form == "chat" else read_text(Path(format.form))
        if _raises(text):
            raise ModelError(
                where, "the template raises to a power (`**`)", "mend it or use format: plain"
            )
        # transformers' own clock tells today; a macro of the same name tells the day that is said.
        self._text = _clock(format.date) + text if "strftime_now" in text else text

    @property
    def text(self) -> str:
        """Give the template itself, with the day it tells written into it."""
        return self._text

    def render(self, messages: Sequence[Message], ask: bool) -> str:
        """Give a conversation as text; `ask` begins the next answer.

        Raises:
            ModelError: the template fails, takes longer than `SECONDS`, or writes more than
                `LONGEST`.
        """
        try:
            with limited(SECONDS):
                text = str(
                    self._tokenizer.apply_chat_template(
                        list(messages),
                        chat_template=self._text,
                        tokenize=False,
                        add_generation_prompt=ask,
                        **self._variables,
                    )
                )
        except TimeoutError:
            raise ModelError(
                self._where,
                f"the template does not end within {SECONDS:g} s",
                "mend it or use format: plain",
            ) from None
        except Exception as error:  # a template is a program of somebody else's
            raise ModelError(
                self._where,
                f"the template fails ({_told(error, messages)})",
                "mend it or use format: plain",
            ) from None
        if len(text) > LONGEST + sum(len(one["content"]) for one in messages):
            raise ModelError(
                self._where,
                f"the template writes {len(text):,} characters",
                "mend it or use format: plain",
            )
        return text


class Unloaded:
    """A template that is run without its tokenizer: whether it runs, and how much it writes."""

    def __init__(self, text: str, format: Format) -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        machine = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"],
            optimized=False,  # else what it writes is reckoned here, where nothing bounds it
        )  # fmt: skip
        text = _clock(format.date) + text if "strftime_now" in text else text
        self._given = {**dict.fromkeys(_SPECIAL, "<>"), **format.variables}
        try:
            with limited(SECONDS):
                self._run = None if _raises(text) else machine.from_string(text)
        except Exception:  # a template is a program of somebody else's
            self._run = None

    def written(self, messages: Sequence[Message]) -> str | None:
        """Give a conversation as text, the next answer begun; None where only `Template` can tell.

        Each special token that the tokenizer would name is two characters here.
        """
        if self._run is None:
            return None
        try:
            with limited(SECONDS):
                return self._run.render(
                    messages=list(messages), add_generation_prompt=True, **self._given
                )
        except Exception:  # a template is a program of somebody else's
            return None


_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def _raises(text: str) -> bool:
    """Say whether a template has a power in it: one can take hours that no clock interrupts."""
    from jinja2 import Environment, TemplateError

    try:
        return any(token.type == "pow" for token in Environment().lexer.tokenize(text))
    except (TemplateError, RecursionError, MemoryError):
        return False  # it cannot run: whoever runs it says why


def _own(tokenizer: PreTrainedTokenizerBase, where: str) -> str:
    """Give the tokenizer's own template."""
    if not tokenizer.chat_template:
        raise ModelError(
            where,
            "format 'chat' asked for, the tokenizer has no chat template",
            "use format: plain or a .jinja file",
        )
    try:
        return tokenizer.get_chat_template()
    except ValueError:
        raise ModelError(
            where,
            "the tokenizer has several chat templates, none called 'default'",
            "write the one you mean into a .jinja file and name that",
        ) from None


def _clock(date: str) -> str:
    """Give a macro `strftime_now` that tells a fixed day, at midnight."""
    codes = {f"%{code}" for code in _CODES} | {f"%-{code}" for code in "deHIjmMSUVWwyY"}
    shown = {code: day(date).strftime(code) for code in sorted(codes, key=len, reverse=True)}
    swaps = "".join(f"|replace('{code}', '{text}')" for code, text in shown.items())
    # The line break behind it is eaten, so that the template still begins a line.
    return f"{{% macro strftime_now(format) %}}{{{{ format{swaps} }}}}{{% endmacro %}}\n"


def _told(error: Exception, messages: Sequence[Message]) -> str:
    """Give what a template's error says, but for words of the conversation."""
    said = (str(error).splitlines() or [""])[0]
    words = (one["content"].strip() for one in messages)
    quoted = any(len(text) > 1 and (text in said or said in text) for text in words)
    return said if said and not quoted else type(error).__name__


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what runs inside once it has used so much processor time.

    In the main thread by a signal, elsewhere by tracing: a few microseconds, or some hundred.
    """
    late = False

    def expire() -> None:
        nonlocal late
        late = True
        raise TimeoutError

    main = threading.current_thread() is threading.main_thread()
    watched = _signalled if main else _traced
    try:
        with watched(seconds, expire):
            yield
    except Exception as error:
        if late:  # Jinja may make another error of it
            raise TimeoutError from error
        raise


@contextmanager
def _signalled(seconds: float, expire: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGVTALRM, lambda _signal, _frame: expire())
    # Again and again: Jinja takes the first for a reason not to reckon beforehand, and goes on.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
    try:
        with _roomy():
            yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _roomy() -> Iterator[None]:
    """Let the process grow by `ROOM` at most: one word of a template can ask for all memory.

    Where the system does not tell how much there is (macOS) nothing is bounded.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + ROOM
    if soft == resource.RLIM_INFINITY or most < soft:
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _traced(seconds: float, expire: Callable[[], None]) -> Iterator[None]:
    end = time.thread_time() + seconds

    def watch(_frame: FrameType, _event: str, _told: object) -> TraceFunction:
        if time.thread_time() > end:
            expire()
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
