"""An error is one line: where, what, what to do."""

from __future__ import annotations

import copy

import pytest

from holdfast import errors
from holdfast.errors import HoldfastError, did_you_mean

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, HoldfastError)
]
EXIT_CODES = {
    "ConfigError": 2,
    "DataError": 2,
    "ModelError": 2,
    "InvalidResultsError": 3,
    "JobRefusedError": 2,
}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_is_one_line_with_its_exit_code(kind: type[HoldfastError]):
    error = kind("study.yaml:3", "a value\nover two lines", "mend it")
    assert str(error) == "study.yaml:3: a value over two lines; mend it"
    assert error.exit_code == EXIT_CODES.get(kind.__name__, 1)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_travels_between_processes_unchanged(kind: type[HoldfastError]):
    twin = copy.copy(kind("here", "is wrong", "do this"))  # by __reduce__, as a worker's does
    assert type(twin) is kind
    assert (twin.where, twin.what, twin.todo) == ("here", "is wrong", "do this")


def test_a_near_word_is_suggested_and_a_far_one_gets_the_list():
    assert did_you_mean("refusal_stf", ["sgt", "refusal_sft"]) == "did you mean 'refusal_sft'?"
    assert did_you_mean("xyzzy", ["sgt", "lox"]) == "known: lox, sgt"
    assert did_you_mean("xyzzy", []) == "known: none"
