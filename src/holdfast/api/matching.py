"""Whether an answer is the known one, by each of the ways a set may ask for."""

from __future__ import annotations

import re
import string

from holdfast.api.evalset import Match

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_UNSAID = str.maketrans("", "", string.punctuation)


def matches(said: str, answer: str, match: Match, after: str = "") -> bool:
    """Say whether an answer is the known one.

    Args:
        after: what stands before an answer; what follows its last place is compared.
    """
    if after:
        said = said.rpartition(after)[2]
    if match is Match.NORMALISED:
        return normalised(said) == normalised(answer)
    if match is Match.CONTAINED:
        wanted = normalised(answer)
        return bool(wanted) and f" {wanted} " in f" {normalised(said)} "
    if match is Match.NUMBER:
        found, wanted = _numbers(said), _numbers(answer)
        return bool(found and wanted) and found[-1] == wanted[-1]
    return " ".join(said.split()) == " ".join(answer.split())


def normalised(text: str) -> str:
    """Give a text as SQuAD's scorer compares it: small letters, no punctuation, no articles."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_UNSAID)).split())


def _numbers(text: str) -> list[float]:
    return [float(one.replace(",", "")) for one in _NUMBER.findall(text)]
