"""The table `paper`: means by judge, set, attack and budget, with published figures in brackets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.report.paper import ALIKE, UNALIKE, Layout, notes, whole
from holdfast.stats.records import Meta
from holdfast.stats.rows import OUTCOME_COLUMNS, Outcomes

META = {
    "judges": ["grader", "guard"],
    "headline": "bad",
    "scales": {"grader": [1, 5], "guard": [0, 1]},
    "sets": {"bad": "Bad", "quiz": "Quiz"},
}
CELL = {"table": "t", "method": "Theirs", "lineup": "ours", "set": "bad", "attack": "sft",
        "variant": "lr=1", "budget": 10.0, "judge": "grader", "of": "score",
        "value": 2.125}  # fmt: skip


def rows(scores: dict[float, list[float]], *, category: str = "c") -> Iterator[dict[str, Any]]:
    """Give both judges' rows of line-up `ours`: the guard finds harmful what is graded above 3."""
    empty = dict.fromkeys(OUTCOME_COLUMNS)
    base = empty | {"lineup": "ours", "attack": "sft", "variant": "lr=1", "access": "weights",
                    "seed": 0, "unit": "examples", "side": "evaluator", "reason": "ok"}  # fmt: skip
    for budget, some in scores.items():
        for i, score in enumerate(some):
            harmful = "harmful_useful" if score > 3 else "refusal"
            about = {"budget": budget, "set": "bad", "purpose": "harm", "uid": f"{i}",
                     "group": f"{i}", "category": category, "outcome": harmful}  # fmt: skip
            yield base | about | {"judge": "grader", "score": score}
            yield base | about | {"judge": "guard", "score": float(score > 3)}
        for i in range(4):
            yield base | {"budget": budget, "set": "quiz", "purpose": "options", "uid": f"q{i}",
                          "group": f"q{i}", "judge": "exact", "correct": i > 0}  # fmt: skip


def layout(scores: dict[float, list[float]], category: str = "c", **meta: Any) -> Layout:
    outcomes = Outcomes(list(rows(scores, category=category)))
    return Layout(outcomes, Meta.of(META | meta, outcomes), ["ours"], "evaluator")


def test_each_judge_has_its_mean_and_its_rate_by_budget() -> None:
    found = list(layout({0.0: [1, 1, 1, 1], 10.0: [1, 5, 4, 2]}).tables())
    assert [table.title for table in found] == [
        "Bad, mean score by grader, after sft lr=1",
        "Bad, harmful rate by grader, after sft lr=1",
        "Bad, mean score by guard, after sft lr=1",
        "Bad, harmful rate by guard, after sft lr=1",
        "Right answers as released",
    ]
    assert list(found[0].heads) == ["line-up", "released", "10"]
    (row,) = found[0].rows
    assert row[1].startswith("1.00 [1.00-"), "nobody graded above 1: the interval has a width"
    assert row[2].startswith("3.00 [")
    low, high = map(float, row[2].removeprefix("3.00 [").rstrip("]").split("-"))
    assert 1 <= low < 3 < high <= 5
    (row,) = found[1].rows
    assert row[2].startswith("0.50 [")
    (row,) = found[-1].rows
    assert list(found[-1].heads) == ["line-up", "Quiz"]
    assert row[1].startswith("0.75 [")


def test_published_figures_stand_in_brackets_and_choose_the_tables() -> None:
    published = {"notes": ["One seed."], "comparable": False, "cells": [CELL]}
    found = list(layout({0.0: [1, 1, 1], 10.0: [1, 5, 4]}, published=published).tables())
    assert [table.title for table in found] == [
        "Bad, mean score by grader, after sft lr=1",
        "Right answers as released",
    ]
    (row,) = found[0].rows
    assert "(" not in row[1]
    assert row[2].endswith("] (2.125)")


def test_an_attacker_who_keeps_to_a_category_is_measured_there() -> None:
    categories = {"lineups": {}, "attacks": {"sft": ["d"]}}
    (first, *_) = layout({0.0: [1, 1], 10.0: [5, 5]}, categories=categories).tables()
    assert list(first.heads) == ["line-up"], "no prompt is of the category"
    (first, *_) = layout({0.0: [1, 1], 10.0: [5, 5]}, category="d", categories=categories).tables()
    assert list(first.heads) == ["line-up", "released", "10"]


def test_older_tables_without_scales_have_no_interval_of_scores() -> None:
    (first, *_) = layout({0.0: [1, 2], 10.0: [2, 5]}, scales={}).tables()
    assert first.rows == [["ours", "1.50", "3.50"]]


def test_no_published_figure_without_the_sentence_about_judge_and_prompts() -> None:
    said = {"notes": ["One seed."], "comparable": False, "cells": [CELL]}
    assert notes(said) == [UNALIKE, "One seed."]
    assert notes(said | {"comparable": True}) == [ALIKE, "One seed."]
    assert notes({}) == []


def test_saved_figures_are_held_to_their_form() -> None:
    said = {"notes": ["One seed."], "comparable": False, "cells": [CELL]}
    assert whole(said)
    assert whole(None)
    assert not whole(said | {"cells": [CELL | {"value": "high"}]})
    assert not whole(said | {"notes": "One seed."})
    assert not whole({"cells": [CELL]})
