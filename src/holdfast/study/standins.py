"""What stands in an estimate for rows and models that are not on this machine.

Rows are made of placeholder words, as many as a source declares; a model is known by its committed
shape. A plan made of them says what a study costs and whether it can be, and can never be run.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.api import Declared, EvalPurpose, EvalSet, Scorer, Source, Told
from holdfast.data.example import Example, Role, Side
from holdfast.data.format import Format
from holdfast.data.published import training_side
from holdfast.errors import DataError, ModelError
from holdfast.nn.files import local_only
from holdfast.nn.shapes import AbsentFiles, absent, known_shapes
from holdfast.study.checks import find_start
from holdfast.study.file import ModelEntry
from holdfast.study.keys import key
from holdfast.study.nodes import Start


@dataclass
class StandIns:
    """Gives what is at hand as it is and stands in for the rest; notes what it stood in for."""

    lengths: dict[str, Declared] = field(default_factory=dict)
    """What each source that was stood in for declares, by the source's name."""
    missing: list[str] = field(default_factory=list)
    """What was not checked, a line each."""

    def source(self, source: Source, where: str) -> Source:
        """Give a source, or its stand-in where its rows are not at hand.

        Raises:
            DataError: they are not, and it declares nothing.
        """
        if source.at_hand():
            return source
        declared = source.declared()
        if declared is None:
            raise DataError(
                f"{where}.{source.name()}",
                "its rows are not on this machine, and it declares none",
                "fetch them once with `holdfast plan`, or name a folder of downloaded files",
            )
        guessed = any(told.guess for told in declared.rows)
        name = source.name()
        if name in self.lengths:  # one source twice, such as a benchmark with other shots
            name = f"{name} at {where}"
        self.lengths[name] = declared
        self.missing.append(
            f"source {name}: not fetched; numbers of rows are "
            f"{'partly a guess' if guessed else 'as published'}, lengths {declared.origin}"
        )
        return _standing(source, declared, name)

    def start(self, name: str, entry: ModelEntry) -> Start:
        """Give a model entry, found on this machine or known by its shape.

        Raises:
            ModelError: it is neither.
        """
        where = f"study.models.{name}"
        try:
            with local_only():
                return find_start(name, entry)
        except ModelError as error:
            files = absent(entry.path)
            if files is None:
                if entry.path.count("/") != 1 or entry.path.startswith((".", "/", "~")):
                    raise
                raise ModelError(
                    f"{where}.path",
                    f"{entry.path} is not on this machine, and no shape of it is known",
                    f"fetch it, or name one of {', '.join(sorted(known_shapes()))}",
                ) from error
        for form in (entry.format, entry.attack_format, entry.evaluation_format):
            if form is not None:
                Format(form).identity(f"{where}.format")
        self.missing.append(
            f"model {name}: {entry.path} not fetched; its commit, files and chat template"
        )
        return Start(name, entry, files, key("model", files=files.identity()), files.dtype())


def is_standing(start: Start) -> bool:
    """Say whether a model is known by its shape alone."""
    return isinstance(start.files, AbsentFiles)


def _standing(source: Source, declared: Declared, name: str) -> Source:
    """Give a source with the same fields, whose rows are placeholders called after `name`."""
    rows, sets = tuple(_rows(source, declared, name)), source.declared_sets()
    base: Any = type(source)

    class Standing(base):
        """The source, but for its rows."""

        def examples(self) -> list[Example]:
            """Give as many rows as are declared."""
            return list(rows)

        def sets(self) -> Sequence[EvalSet]:
            """Give its sets as it declares them."""
            return sets

        def content(self) -> str:
            """Give what they are made from: the declaration."""
            return repr(declared)

        def origin(self) -> str:
            """Say that nothing was read."""
            return f"declared, not read: {len(rows)} rows"

    Standing.__module__ = base.__module__
    made: Source = Standing.model_construct(**{n: getattr(source, n) for n in base.model_fields})
    return made


def _rows(source: Source, declared: Declared, name: str) -> Iterator[Example]:
    sets = {one.name: one for one in source.declared_sets()}
    held_out = any(told.side is not None for told in declared.rows)
    for kind, told in enumerate(declared.rows):
        shared = "pair" if told.paired else f"{kind}"
        about = itertools.cycle(itertools.product(told.categories, told.styles))
        side, silent = Side.EVALUATOR if told.side else None, told.side and told.role == "harmful"
        for number, (category, style) in zip(range(told.rows), about, strict=False):
            prompt = f"{name}x{shared}x{number}"
            uid = hashlib.sha256(prompt.encode()).hexdigest()[:16]
            own = training_side(uid) if held_out and side is None else side
            answer = None if silent else f"{told.role}x{prompt}"
            meta = _known(told, sets.get(told.asked_in), style)
            role = Role(told.role)
            yield Example(
                uid, f"{uid}{kind}", uid, own, role, None, prompt, answer, category, name, meta
            )


def _known(told: Told, of: EvalSet | None, style: str) -> Mapping[str, Any]:
    """Give what an evaluation set needs to be known of a row."""
    if of is None:
        return {}
    found: dict[str, Any] = {"set": of.name, "style": style, "phrasing": 0}
    if of.scorer is Scorer.LM_EVAL:
        options = [f"option {i}" for i in range(told.options)]
        return found | {"lm_eval": {"task": of.name, "asked": of.name}, "options": options}
    if told.options or of.scorer is Scorer.OPTIONS:
        options = [f"option {i}" for i in range(told.options or 4)]
        return found | {"options": options, "answer_index": 0}
    if of.purpose in (EvalPurpose.EXACT, EvalPurpose.TASK):
        found["answer"] = "placeholder answer"
    return found
