"""A cut of the mutated inputs and corrupted artefacts: each is told in one line, none is silent."""

from __future__ import annotations

from collections import Counter

from benchmarks.strangers import try_corruptions, try_inputs


def test_no_mutated_input_ends_badly() -> None:
    assert try_inputs(60) == Counter()


def test_no_corruption_of_an_artefact_is_silent() -> None:
    assert try_corruptions(60) == Counter()
