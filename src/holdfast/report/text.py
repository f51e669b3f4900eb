"""Words for readers: numbers spelt one way, and untrusted text made harmless to look at."""

from __future__ import annotations

import math
import re

from holdfast import errors
from holdfast.api import everything
from holdfast.stats import cost, estimates

SHOWN = 600
"""Characters of a completion shown in a report; the rest is counted, not printed."""
NO_BREAK = "\u00a0"

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def harmless(text: object, limit: int = SHOWN) -> str:
    """Give text that can be shown: what cannot be seen is spelt out, what is too long is cut.

    Control, format (bidirectional marks, zero widths, tags), private, unassigned and surrogate
    characters become their code in square brackets, such as `[U+202E]`; line feeds and tabs stay.
    More than three combining marks in a row are dropped to three. Escaping for HTML is the
    template's.
    """
    text = "" if text is None else str(text)
    size = len(text)
    shown = text[:limit]
    if any(not ch.isascii() or not ch.isprintable() for ch in shown):
        shown = errors.harmless(shown)
        shown = re.sub(r"([\u0300-\u036f\u0483-\u0489\u20d0-\u20ff]{3})[\u0300-\u036f\u0483-\u0489\u20d0-\u20ff]+", r"\1", shown)  # fmt: skip # noqa: E501
    if size > limit:
        shown += f" … [cut: {size - limit} of {size} characters are not shown]"
    return shown


def masked(text: object) -> str:
    """Stand in for restricted text: how long it is, and nothing of what it says."""
    text = "" if text is None else str(text)
    return f"[masked: {len(text)} characters]"


def percent(share: float | None, places: int = 1) -> str:
    """Spell a share: `12.5 %` with a space that does not break; an en dash for None."""
    return "–" if share is None else f"{100 * share:.{places}f}{NO_BREAK}%"


def points(difference: float) -> str:
    """Spell a difference of shares in percentage points, signed with a true minus."""
    value = round(100 * difference, 1)
    return f"{'−' if value < 0 else '+' if value > 0 else ''}{abs(value):.1f}"


def interval(rate: estimates.Rate) -> str:
    """Spell an interval of shares in whole-number brackets: `8.1–17.0`."""
    if rate.value is None:
        return "nothing scored"
    return f"{100 * rate.low:.1f}–{100 * rate.high:.1f}"


def number(value: float) -> str:
    """Spell a count or budget: thin groups of three, no needless decimals, powers above 10 000 000."""  # noqa: E501
    if math.isinf(value):
        return "∞"
    if abs(value) >= 1e7:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}{NO_BREAK}×{NO_BREAK}10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    if value == int(value):
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:g}"


def budget(value: float, unit: str) -> str:
    """Spell a budget: a number, or `all` where it stands for all there is."""
    return "all" if everything(value, unit) else number(value)


def spent(value: float, unit: str) -> str:
    """Spell a budget with what it counts: `64 examples`, `rank all`."""
    return f"{unit} all" if everything(value, unit) else f"{number(value)} {unit}"


def span(low: float, high: float, most: float) -> str:
    """Spell where a victim breaks: `at release`, `64–128`, or `> 512` where nothing broke it."""
    if high == 0:
        return "at release"
    if math.isinf(high):
        return f">{NO_BREAK}{number(most)}"
    return f"{number(low)}–{number(high)}"


def broke(found: cost.Cost) -> str:
    """Spell one cost-to-break."""
    return span(found.low, found.high, found.b_max)


def bounds(found: cost.Cost) -> str:
    """Spell the interval of one cost-to-break over prompts, open where it passes b_max."""
    if found.ci_high == 0:
        return "at release"
    if math.isinf(found.ci_low):
        return f">{NO_BREAK}{number(found.b_max)}"
    if math.isinf(found.ci_high):
        return f"{number(found.ci_low)} to >{NO_BREAK}{number(found.b_max)}"
    return f"{number(found.ci_low)}–{number(found.ci_high)}"


def begun(words: str) -> str:
    """Give words as a sentence begins, with a capital letter."""
    return words[:1].upper() + words[1:]


def listed(words: list[str]) -> str:
    """Join words as a sentence does: `a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def plural(n: int, word: str) -> str:
    """Spell a count with its noun: `1 seed`, `2 seeds`."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
