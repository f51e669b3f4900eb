"""What is known of a prompt besides its text: a row's `meta`, read with types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from holdfast.api.evalset import EvalPurpose
from holdfast.errors import DataError


@dataclass(frozen=True, slots=True)
class Known:
    """A row's `meta`, read with types; what `meta` does not hold has its default.

    `set`, `style` and `phrasing` say which evaluation set a row belongs to and how it asks there.
    `purpose` is what that set is for, told to judges that read it. `answer` is the exact answer,
    which is compared with what is said behind the last `after`, where that is given; of a graded
    set it is one good answer, which the grader sees. `options` and
    `answer_index` are what is to choose from and the right one's place from 0, `steps` are the
    true steps of a restricted request. `lm_eval` says which document of lm-eval a row is.
    """

    set: str = ""
    style: str = ""
    phrasing: int | str = 0
    purpose: EvalPurpose | None = None
    answer: str | None = None
    after: str = ""
    options: tuple[str, ...] = ()
    answer_index: int | None = None
    steps: tuple[str, ...] = ()
    lm_eval: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Self:
        """Read a `meta`; None there is as good as nothing, and other keys are nobody's business.

        Raises:
            DataError: a value of another kind, as `meta.steps: is no list of texts; ...`.
        """
        found: dict[str, Any] = {}
        for name, (fits, kind, todo) in _KINDS.items():
            value = meta.get(name)
            if value is None:
                continue
            if not fits(value):
                raise DataError(f"meta.{name}", f"is no {kind}", todo)
            found[name] = tuple(value) if isinstance(value, list) else value
        if "purpose" in found:
            found["purpose"] = EvalPurpose(found["purpose"])
        return cls(**found)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _purpose(value: object) -> bool:
    return _text(value) and value in list(EvalPurpose)


def _number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)


def _document(value: object) -> bool:
    return isinstance(value, Mapping) and "task" in value


_KINDS = {
    "set": (_text, "text", "write the set's name"),
    "style": (_text, "text", "write the style's name"),
    "phrasing": (lambda value: _text(value) or _number(value), "number or text", "number them"),
    "purpose": (_purpose, "purpose", f"write one of {', '.join(EvalPurpose)}"),
    "answer": (_text, "text", "write the answer as text"),
    "after": (_text, "text", "write what stands before the answer"),
    "options": (_texts, "list of texts", "write one text an option"),
    "answer_index": (_number, "whole number", "write the right option's place, from 0"),
    "steps": (_texts, "list of texts", "write one text a step"),
    "lm_eval": (_document, "document of lm-eval", "bring it by the source lm_eval"),
}
