"""A method made in Python: the same one line as in a study file, and a repr that can be read."""

from __future__ import annotations

import logging

import pytest

import holdfast
from holdfast.api import Loop
from holdfast.attacks.harmful_sft import HarmfulSFT
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
