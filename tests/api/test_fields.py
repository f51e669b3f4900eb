"""From YAML to frozen models: what a user's slip of the pen is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from holdfast.api import Loop, seed
from holdfast.api.fields import NO_EFFECT, AsTuple, Fields, decode, load_yaml, parse_yaml
from holdfast.errors import ConfigError


class Inner(Fields):
    """A nested group."""

    width: int = 2
    """Columns."""
    workers: Annotated[int, Field(json_schema_extra=NO_EFFECT)] = 1
    """Processes."""


class Outer(Fields):
    """A group with everything that matters here."""

    rate: Annotated[float, Field(gt=0)]
    """A rate."""
    defence: str = "none"
    """A word Americans spell otherwise."""
    budgets: Annotated[tuple[int, ...], AsTuple] = (0, 8)
    """A list in YAML."""
    inner: Inner = Inner()
    """Nested."""
    maybe: Inner | None = None
    """Nested or absent."""
    verbose: Annotated[bool, Field(json_schema_extra=NO_EFFECT)] = False
    """Changes no result."""


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"rate": 1.0, "budgest": [1]}, "s.budgest: unknown field; did you mean 'budgets'?"),
        ({"rate": 1.0, "defense": "x"}, "s.defense: unknown field; did you mean 'defence'?"),
        (
            {"rate": 1.0, "inner": {"widht": 1}},
            "s.inner.widht: unknown field; did you mean 'width'?",
        ),
        (
            {"rate": 1.0, "maybe": {"widht": 1}},
            "s.maybe.widht: unknown field; did you mean 'width'?",
        ),
        ({"raet": 1.0}, "s.raet: unknown field; did you mean 'rate'?"),
        ({}, "s.rate: is required; add it"),
        (None, "s.rate: is required; add it"),
        ({"rate": -1e-3}, "s.rate: got -0.001; it should be greater than 0"),
        ({"rate": float("nan")}, "s.rate: got nan; it should be a finite number"),
        ({"rate": "fast"}, "s.rate: got 'fast'; it should be a valid number"),
        (
            {"rate": 1.0, "inner": {"width": 2.5}},
            "s.inner.width: got 2.5; it should be a valid integer",
        ),
        (
            {"rate": 1.0, "inner": {"width": True}},
            "s.inner.width: got True; it should be a valid integer",
        ),
        (
            {"rate": 1.0, "budgets": "all"},
            "s.budgets: got 'all'; it should be a list, such as [all]",
        ),
        ({"rate": 1.0, "maybe": 3}, "s.maybe: got 3; it should be fields, such as {name: value}"),
        ([1, 2], "s: expected fields, got [1, 2]; write `name: value` lines under it"),
        ("sgt", "s: expected fields, got 'sgt'; write `name: value` lines under it"),
    ],
)
def test_a_wrong_value_gets_one_line(data: Any, line: str):
    with pytest.raises(ConfigError) as caught:
        decode(Outer, data, "s")
    assert str(caught.value) == line
    assert caught.value.exit_code == 2


class Lists(Fields):
    """Fields of several kinds, and lists of them."""

    layers: Annotated[
        tuple[Annotated[int, Field(ge=1)] | Annotated[float, Field(ge=0, le=1)], ...],
        AsTuple,
        Field(min_length=1, max_length=2),
    ] = (1,)
    """Blocks, or depths."""
    said: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], AsTuple] = ()
    """Texts."""
    refusal: str | tuple[str, ...] | None = None
    """One text or several."""


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            {"layers": [1.5]},
            "s.layers.0: got 1.5; it should be a valid integer or less than or equal to 1",
        ),
        (
            {"layers": [-1]},
            "s.layers.0: got -1; it should be greater than or equal to 1",
        ),
        (
            {"layers": [0.5, "deep"]},
            "s.layers.1: got 'deep'; it should be a valid integer or a valid number",
        ),
        (
            {"layers": []},
            "s.layers: got []; it should be a list with at least 1 in it",
        ),
        (
            {"layers": [1, 2, 3]},
            "s.layers: got [1, 2, 3]; it should be a list with at most 2 in it",
        ),
        ({"said": [""]}, "s.said.0: got ''; it should be text that says something"),
        (
            {"refusal": 3},
            "s.refusal: got 3; it should be a valid string or a list, such as [3]",
        ),
    ],
)
def test_a_value_in_a_list_gets_plain_words(data: Any, line: str):
    with pytest.raises(ConfigError) as caught:
        decode(Lists, data, "s")
    assert str(caught.value) == line


def test_a_long_value_is_shown_cut_short():
    with pytest.raises(ConfigError) as caught:
        decode(Outer, {"rate": "x" * 10_000}, "s")
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr: 1e-3", {"lr": 1e-3}),  # YAML 1.1 readers make a string of it
        ("answer: no", {"answer": "no"}),
        ("mode: 0o17", {"mode": 15}),
        ("time: 12:30", {"time": "12:30"}),
        ("", None),
    ],
)
def test_yaml_is_version_1_2(text: str, value: Any):
    assert parse_yaml(text, "s.yaml") == value


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: 1\na: 2\n", "s.yaml:2"),
        ("a: 1\n  b: 2\n", "s.yaml:2"),
        ("a: !!python/object x", "s.yaml:1"),
    ],
)
def test_broken_yaml_is_named_with_its_line(text: str, where: str):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "s.yaml")
    assert caught.value.where == where
    assert str(caught.value).count("\n") == 0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    gone, folder, binary = tmp_path / "gone.yaml", tmp_path, tmp_path / "model.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    for path, what in (
        (gone, "no such file"),
        (folder, "is a folder"),
        (binary, "byte 0 is no UTF-8"),
    ):
        with pytest.raises(ConfigError, match=what) as caught:
            load_yaml(path)
        assert caught.value.where == str(path)


def test_a_character_that_json_spells_in_two_halves_is_whole(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_bytes(b'\xef\xbb\xbf{"a": ["\\ud83d\\ude00"], "b": {"\\ud83d\\ude00": 1}}')
    assert load_yaml(path) == {"a": ["\U0001f600"], "b": {"\U0001f600": 1}}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            'a: "\\ud83d"',
            "s.yaml: text holds half a surrogate pair, which is no character; write the character "
            "whole, or take it out",
        ),
        ('a: ["\\0"]', "s.yaml: text holds a NUL character; take it out"),
    ],
)
def test_text_that_nothing_could_write_is_refused(text: str, line: str):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "s.yaml")
    assert str(caught.value) == line


def test_fields_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Inner().width = 3


def test_a_change_is_checked_like_any_other_value():
    outer = Outer(rate=0.5, inner=Inner(width=7))
    assert outer.with_(rate=0.25) == Outer(rate=0.25, inner=Inner(width=7))
    with pytest.raises(ConfigError, match="greater than 0"):
        outer.with_(rate=-1.0)
    with pytest.raises(ConfigError, match="did you mean 'rate'"):
        outer.with_(raet=1.0)


def test_a_key_holds_every_default_and_nothing_without_effect():
    assert Outer(rate=0.5, verbose=True, inner=Inner(workers=8)).key_fields() == {
        "rate": 0.5,
        "defence": "none",
        "budgets": [0, 8],
        "inner": {"width": 2},
        "maybe": None,
    }
    assert Outer(rate=0.5, maybe=Inner(workers=3)).key_fields()["maybe"] == {"width": 2}


def test_how_often_to_checkpoint_is_no_part_of_a_key():
    assert Loop(checkpoint_every=1).key_fields() == Loop().key_fields()


def test_every_field_of_the_loop_is_documented():
    assert not [name for name, info in Loop.model_fields.items() if not info.description]


@given(
    rate=st.floats(min_value=1e-12, max_value=1e12),
    budgets=st.lists(st.integers(0, 10**6), max_size=5),
    width=st.integers(-(2**60), 2**60),
)
def test_decoding_what_was_encoded_changes_nothing(rate: float, budgets: list[int], width: int):
    outer = Outer(rate=rate, budgets=tuple(budgets), inner=Inner(width=width))
    assert decode(Outer, outer.model_dump(mode="json"), "s") == outer


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_seeds_differ_by_purpose_and_study_and_fit_63_bits(first: int, second: int):
    assert 0 <= seed(first, "draw") < 2**63
    assert seed(first, "draw") != seed(first, "order")
    assert (seed(first, "draw") == seed(second, "draw")) == (first == second)


def test_a_group_given_in_part_keeps_what_its_method_chose() -> None:
    from holdfast.api.registry import make
    from holdfast.defences.sgt import SGT

    changed = make("defence", {"sgt": {"loop": {"lr": 0.5, "lora": {"rank": 2}}}}, "x")
    assert isinstance(changed, SGT)
    assert changed.loop == SGT().loop.with_(lr=0.5, lora={"rank": 2})
    assert changed.loop.steps == SGT().loop.steps
    assert changed.stage1 == SGT().stage1
