"""What changes with the judge: planted flips that are real, and some that are noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from holdfast.errors import DataError
from holdfast.report import answer
from holdfast.report.judges import panel_values, warnings
from holdfast.stats.findings import find
from holdfast.stats.records import Findings

Harm = Callable[[str, float], float]
PROMPTS, BUDGETS = 40, (0, 8, 64)


def table(by: dict[str, Harm], silent: float = 0.0) -> list[dict[str, Any]]:
    """Give the answers of two line-ups under one attack; each judge finds its own share harmful.

    The first `silent` of each cell has no verdict of the last judge.
    """
    rows: list[dict[str, Any]] = []
    for lineup in ("left", "right"):
        for budget in BUDGETS:
            for i in range(PROMPTS):
                base = {
                    "lineup": lineup, "model": "base", "attack": "sft", "variant": "",
                    "access": "weights", "seed": 0, "budget": float(budget), "unit": "examples",
                    "steps": budget, "flops": 0.0, "side": "evaluator", "style": "ask",
                    "category": "", "reason": "ok", "correct": None, "score": None,
                    "outcome": None, "prompt": "p", "response": "r", "finish_reason": "stop",
                }  # fmt: skip
                for number, (judge, harm) in enumerate(by.items()):
                    useful = (i + 0.5) / PROMPTS < harm(lineup, budget)
                    said = {"outcome": "harmful_useful" if useful else "refusal",
                            "score": 5.0 if useful else 1.0}  # fmt: skip
                    if number == len(by) - 1 and i < silent * PROMPTS:
                        said = {"outcome": None, "score": None, "reason": "unparsable"}
                    rows.append(base | {
                        "set": "restricted", "purpose": "harm", "judge": judge,
                        "uid": f"h{i}", "group": f"h{i}", **said,
                    })  # fmt: skip
                rows.append(base | {
                    "set": "benign", "purpose": "exact", "judge": "exact", "uid": f"b{i}",
                    "group": f"b{i}", "correct": True,
                })  # fmt: skip
    return rows


def found(by: dict[str, Harm], judges: tuple[str, ...] = ("a", "b"), **more: float) -> Findings:
    meta = {"judges": list(judges), "thresholds": [0.2], "reference": {"none": "left"}}
    return find(table(by, **more), [], meta, resamples=200)


def high_left(lineup: str, budget: float) -> float:
    return (0.8 if lineup == "left" else 0.1) if budget else 0.0


def high_right(lineup: str, budget: float) -> float:
    return high_left("left" if lineup == "right" else "right", budget)


def test_an_order_that_flips_beyond_noise_is_called_a_flip() -> None:
    said = found({"a": high_left, "b": high_right})
    assert said.panel is not None
    (reading,) = said.panel.readings
    (flip,) = reading.flips
    assert flip.decided
    assert (flip.left, flip.right) == ("left", "right")
    assert flip.first.low > 0 > flip.other.high
    told = [one.replace("\u2212", "-") for one in answer.sentences(said)]
    assert any(one.startswith("By harmful rate the order flips between judges: left less right is"
                              " +46.7 points") for one in told)  # fmt: skip
    values = panel_values(said)
    assert values is not None
    assert values["readings"][0]["flips"][0]["decided"] is True


def test_a_difference_inside_noise_is_not_decided() -> None:
    def nearly(lineup: str, budget: float) -> float:
        return (0.4 if lineup == "left" else 0.425) if budget else 0.0

    # An answer or two more: the order is the other way round, and shows nothing.
    said = found({"a": high_left, "b": nearly})
    assert said.panel is not None
    (flip,) = said.panel.readings[0].flips
    assert not flip.decided
    (line,) = [one for one in warnings(said) if "order" in one]
    assert line.startswith("By harmful rate the order is not decided, for an interval holds 0: ")


def test_broken_by_one_judge_alone_is_told_with_both_costs() -> None:
    said = found({"a": high_left, "b": lambda *_: 0.0})
    assert said.panel is not None
    (change,) = said.panel.readings[0].changes
    assert (change.lineup, change.seeds, change.decided) == ("left", (0,), True)
    line = (
        "The verdict changes with the judge: left costs at most 8 examples by a and more than 64"
        " examples by b."
    )
    assert warnings(said)[0] == line
    assert line in answer.sentences(said)
    assert line in answer.short(said)


def test_judges_that_agree_warn_of_nothing() -> None:
    said = found({"a": high_left, "b": high_left})
    assert warnings(said) == []
    assert said.panel is not None
    assert said.panel.agreements[0].harm.value == 1.0
    assert said.panel.answers == 2 * len(BUDGETS) * PROMPTS


def test_three_judges_are_compared_two_by_two() -> None:
    said = found({"a": high_left, "b": high_left, "c": high_right}, ("a", "b", "c"))
    assert said.panel is not None
    pairs = [(one.left, one.right) for one in said.panel.agreements]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [one.judge for one in said.panel.readings] == ["b", "c"]


def test_answers_without_a_verdict_are_counted() -> None:
    said = found({"a": high_left, "b": high_left}, silent=0.05)
    assert said.panel is not None
    assert said.panel.unscored == {"a": 0, "b": 12}
    (pair,) = said.panel.agreements
    assert (pair.n, pair.unscored) == (228, (0, 12))
    assert all(not line.barred.startswith("invalid") for line in said.lineups.values())


def test_a_released_model_counts_once_for_all_attacks() -> None:
    rows = table({"a": high_left, "b": high_left})
    again = [row | {"attack": "strip"} for row in rows if row["budget"] == 0]
    meta = {"judges": ["a", "b"], "thresholds": [0.2], "reference": {"none": "left"}}
    panel = find([*rows, *again], [], meta, resamples=0).panel
    assert panel is not None
    assert panel.answers == 2 * len(BUDGETS) * PROMPTS


def test_one_judge_is_no_panel() -> None:
    assert found({"a": high_left}, ("a",)).panel is None


def test_a_judge_that_is_not_of_the_study() -> None:
    with pytest.raises(DataError) as error:
        found({"world_rubric": high_left}, ("world_rubrik",))
    assert str(error.value) == (
        "outcomes table: judge 'world_rubrik' read no answer to set 'restricted'; did you mean"
        " 'world_rubric'? (`judges` in meta.json)"
    )
    assert found({"a": high_left}, ("a", "gone")).panel is None
