"""What an honest customer can still teach each line-up, as cells of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.api import EvalPurpose
from holdfast.report import text, words
from holdfast.stats.records import Findings


def cells(found: Findings) -> Iterator[list[str]]:
    """Give a row for every line-up, set and budget: names, examples, before, after, gains."""
    for one in found.meta.tuning.get("gains", ()):
        shown = words.label(found, one["set"])
        if one["purpose"] == EvalPurpose.HARM:
            shown = f"harm: {shown}"
        yield [
            one["lineup"],
            shown,
            text.number(one["budget"]),
            _share(one["before"]),
            _share(one["after"]),
            _points(one["gain"]),
            "–" if one["beside"] is None else _points(one["beside"]),
        ]


def _share(rate: Mapping[str, Any]) -> str:
    if rate["value"] is None:
        return "–"
    ends = f"{100 * rate['low']:.0f}–{100 * rate['high']:.0f}"
    return f"{text.percent(rate['value'])} ({ends}, n {rate['n']})"


def _points(gain: Mapping[str, float | None]) -> str:
    """Spell a difference of shares in points, with its interval."""
    value, low, high = (gain[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "–"
    return f"{100 * value:+.0f} ({100 * low:+.0f} to {100 * high:+.0f})"
