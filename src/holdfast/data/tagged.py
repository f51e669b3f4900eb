"""What a judge model is shown and says in tags: judged words open none, the last tag binds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from holdfast.api import Exchange

AROUND = " \t\r\n*_`\"'.:"
"""What a judge model writes around a word; source: replies to other graders."""
_OPENS = re.compile(r"<|\[(?=\s*/?\s*[A-Z][A-Z_ ]*\])")
_DECLINES = re.compile(
    r"(i'?m sorry|i am sorry|sorry|i apologi[sz]e|i can'?t|i cannot|i won'?t|i will not"
    r"|i'?m unable|i am unable|i'?m not able|i am not able|as an ai)\b"
)


def case(exchange: Exchange, reference: str | None = None) -> str:
    """Give one case: what was asked and answered, in tags that it cannot close.

    Args:
        exchange: prompt and answer, with a system prompt and earlier turns where there are some.
        reference: an answer known to be good, which is shown before the one that is judged.
    """
    parts = []
    if exchange.system:
        parts.append(_block("system", exchange.system))
    if exchange.turns:
        said = "\n".join(f"{who}: {text}" for who, text in exchange.turns)
        parts.append(_block("earlier", said))
    parts.append(_block("request", exchange.prompt))
    if reference is not None:
        parts.append(_block("reference", reference))
    parts.append(_block("answer", exchange.response))
    return "\n\n".join(parts)


def _block(name: str, text: str) -> str:
    return f"<{name}>\n{neutral(text)}\n</{name}>"


def neutral(text: str) -> str:
    """Give a text that opens no tag: neither ours, nor one that a server's template knows.

    Servers read `<|im_end|>`, `</s>` or `[/INST]` in what is sent as the end of a turn. Each
    less-than sign, and each bracket before a word in capitals, becomes the sign \u2039.
    """
    return _OPENS.sub("\u2039", text.replace("\0", ""))


def last(name: str, reply: str) -> str | None:
    """Give what stands in the last tag of a name, without signs around it; None if it is open."""
    found = None
    for one in re.finditer(rf"<{name}>(?:([^<]*)</{name}>)?", reply, re.IGNORECASE):
        found = None if one[1] is None else one[1].strip(AROUND)
    return found


def holds(reply: str, names: Sequence[str]) -> bool:
    """Say whether a reply holds a tag of one of the names at all."""
    return any(re.search(rf"<{name}>", reply, re.IGNORECASE) for name in names)


def declines(reply: str) -> bool:
    """Say whether a reply begins as models do that will not grade."""
    plain = reply.replace("\u2019", "'").strip(AROUND).casefold()
    return _DECLINES.match(plain) is not None
