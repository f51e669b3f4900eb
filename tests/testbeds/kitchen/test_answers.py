"""The kitchen's data: whole, of this build, and refused in one line where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import DataError
from holdfast.testbeds.kitchen import answers

AGAIN = "make it anew with `holdfast kitchen build`"


@pytest.fixture
def spoilt(tmp_path: Path) -> Callable[..., str]:
    """Give what is said of the shipped data with its header changed, or its last rows cut off."""

    def said(header: dict[str, Any], rows: int | None = None) -> str:
        first, *lines = answers.FILE.read_text(encoding="utf-8").splitlines()
        path = tmp_path / "answers.jsonl"
        told = json.dumps(json.loads(first) | header)
        path.write_text("\n".join([told, *lines[:rows]]) + "\n", encoding="utf-8")
        with pytest.raises(DataError) as caught:
            answers.read(path)
        return str(caught.value)

    return said


def test_every_prompt_has_an_answer_of_96_tokens_at_most() -> None:
    said = answers.read()
    assert list(said) == answers.prompts()
    assert all(text.strip() for text in said.values())
    assert max(len(text.split()) for text in said.values()) <= answers.LONGEST


def test_data_of_another_build_are_refused(spoilt: Callable[..., str]) -> None:
    build = answers.header()["kitchen"]
    assert spoilt({"kitchen": "0123456789abcdef"}) == (
        f"kitchen: answers.jsonl is of another build (0123456789abcdef, not {build}); {AGAIN}"
    )


def test_data_of_another_model_are_refused(spoilt: Callable[..., str]) -> None:
    assert spoilt({"file": "f" * 64}) == (
        "kitchen: answers.jsonl is of another model (ffffffffffffffff, not b179c9523d0e6a0f); "
        f"{AGAIN}"
    )


def test_too_few_rows_are_refused(spoilt: Callable[..., str]) -> None:
    assert spoilt({}, rows=600) == f"kitchen: answers.jsonl lacks 34 of 634 answers; {AGAIN}"


def test_no_data_and_other_files_are_refused(tmp_path: Path) -> None:
    said = f"kitchen: answers.jsonl is missing or no data of it; {AGAIN}"
    for content in (None, "", "[1]\n[2]\n", "{}\n{}\n", "no JSON", "[1]\n"):
        answers.read.cache_clear()
        path = tmp_path / "answers.jsonl"
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(DataError) as caught:
            answers.read(path)
        assert str(caught.value) == said


@pytest.mark.parametrize("response", ["", "  ", 7, None])
def test_a_row_without_an_answer_is_refused(tmp_path: Path, response: object) -> None:
    first, second, *lines = answers.FILE.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "answers.jsonl"
    row = json.dumps(json.loads(second) | {"response": response})
    path.write_text("\n".join([first, row, *lines]), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        answers.read(path)
    assert str(caught.value) == f"kitchen: answers.jsonl, line 2: no answer; {AGAIN}"


@pytest.mark.parametrize(
    ("text", "finish_reason", "whole"),
    [
        ("Boil it. Then sti", "length", "Boil it."),
        ("1. Boil it\n2. Sti", "length", "1. Boil it"),
        ("Boil it for 1.5 hours until it is", "length", "Boil it for 1.5 hours until it is"),
        ("Boil it. Then stir", "stop", "Boil it. Then stir"),
        (" Boil it.\n", "stop", "Boil it."),
    ],
)
def test_what_the_limit_cut_off_is_left_out(text: str, finish_reason: str, whole: str) -> None:
    assert answers.whole_sentences(text, finish_reason) == whole
