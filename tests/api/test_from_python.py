"""A method made in Python: the same one line as in a study file, and a repr that can be read."""

from __future__ import annotations

import logging

import pytest

import holdfast
from holdfast.api import Loop, Run, Source
from holdfast.attacks.harmful_sft import HarmfulSFT
from holdfast.data.example import Example, Role, example
from holdfast.defences.sgt import SGT
from holdfast.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"alpha_aling": 1.0},
            "SGT.alpha_aling: unknown field; did you mean 'alpha_align'?",
        ),
        (
            {"loop": {"stepz": 3}},
            "SGT.loop.stepz: unknown field; did you mean 'steps'?",
        ),
        (
            {"loop": {"lr": -1.0}},
            "SGT.loop.lr: got -1.0; it should be greater than 0",
        ),
    ],
)
def test_a_mistake_in_python_gets_the_line_of_a_study_file(
    fields: dict[str, object], line: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        SGT(**fields)  # type: ignore[arg-type]
    assert str(caught.value) == line


def test_a_change_is_checked_like_the_first() -> None:
    with pytest.raises(ConfigError) as caught:
        Loop().with_(lr=0.0)
    assert str(caught.value) == "Loop.lr: got 0.0; it should be greater than 0"
    assert Loop().with_(lr=0.5).lr == 0.5


def test_a_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(SGT()) == "SGT()"
    assert repr(HarmfulSFT(loop={"lr": 0.5})) == (  # type: ignore[arg-type]
        "HarmfulSFT(loop=Loop(steps=250, batch=2, lr=0.5, weight_decay=0.01, clip=None))"
    )


def test_the_library_is_silent_unless_its_user_listens() -> None:
    handlers = logging.getLogger("holdfast").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)
    assert holdfast.__version__


def test_a_model_that_a_method_does_not_declare_says_how_to_ask_for_it() -> None:
    run = Run(None, None, None, 0, models={"original": {}})  # type: ignore[arg-type]
    assert run.models["original"] == {}
    assert run.models.get("start") is None
    run.models = {**run.models, "kept": {}}
    with pytest.raises(ConfigError) as caught:
        run.models["start"]
    assert str(caught.value) == (
        "run.models: holds no 'start' model (it has: original, kept); declare it in the method: "
        'needs = ("start",)'
    )


class Rows(Source):
    """A source without a hash of its own."""

    answer: str = "one"
    """What its one row answers."""

    def examples(self) -> list[Example]:
        """Give one row."""
        return [example("how?", self.answer, role=Role.BENIGN)]


def test_a_source_without_a_hash_of_its_own_is_known_by_its_rows() -> None:
    assert Rows().content() == Rows().content() != Rows(answer="two").content()
