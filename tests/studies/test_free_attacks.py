"""The free attacks in a study: what they share, what they ask, and what is wrong with a plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast import nn
from holdfast.api import Chain
from holdfast.cli import run
from holdfast.engine import fit
from holdfast.engine.store import Store
from holdfast.engine.tasks import tasks
from holdfast.errors import HoldfastError
from holdfast.nn import memory
from holdfast.nn.files import resolve
from holdfast.study.file import parse_study
from holdfast.study.nodes import Point
from holdfast.study.plan import Plan

Make = Callable[..., Plan]
SFT = {
    "harmful_sft": {
        "loop": {"lr": 0.03, "batch": 2, "checkpoint_every": 1},
        "evaluate_at": [4, 8],
    }
}
EDIT = {"abliterate": {"forms": ["stream"], "layers": [0.5], "evaluate_at": [1.0], "n": 4}}
PREFILL = {"prefill": {"openings": ["two six"], "words": [1]}}
PERSONA = {"persona": {"systems": ["bright no"]}}
ALL = {
    "abliterate": [{"abliterate": {"layers": [0.5], "evaluate_at": [0.5, 1.0], "n": 4}}],
    "undo_delta": [{"undo_delta": {"evaluate_at": [1, "all"]}}],
    "strip": [{"strip": {"evaluate_at": [1.0]}}],
    "prefill": [PREFILL],
    "persona": [PERSONA],
    "edited": [[EDIT, SFT]],
    "harmful_sft": [SFT],
}


@pytest.fixture
def plan(toy: ModuleType, toy_model: Path, installed: Path) -> Make:
    """Give a function that plans the toy study with some parts changed."""

    def make(**changes: Any) -> Plan:
        changes = {"attacks": ALL, "lineups": {"none": {"start": "base"}}} | changes
        return Plan(parse_study(toy.study(toy_model, **changes)))

    return make


def points(plan: Plan, attacker: str) -> dict[tuple[str, float], Point]:
    """Give an attacker's points by choice and budget, at the first seed."""
    return {
        (track.variant, budget): point
        for track in plan.tracks
        if track.attacker == attacker
        for budget, point in track.points
    }


def keys(plan: Plan, point: Point) -> dict[tuple[str, str], str]:
    return {
        (plan.prompts[i].set.name, plan.prompts[i].side): step.key
        for i, step in point.asked.items()
    }


# ---- what is shared


@pytest.mark.parametrize("attacker", ["prefill", "persona"])
def test_an_attack_by_prompt_shares_every_benign_answer_with_the_release(
    plan: Make, attacker: str
) -> None:
    made = plan()
    for (variant, budget), point in points(made, attacker).items():
        released = keys(made, points(made, attacker)[variant, 0.0])
        for place, own in keys(made, point).items():
            assert (own == released[place]) is (budget == 0 or place[0] != "restricted"), place


def test_no_benign_answer_is_made_again_for_it(plan: Make) -> None:
    few = plan(attacks={"strip": ALL["strip"]})
    more = plan(attacks={"strip": ALL["strip"], "persona": [PERSONA]})
    extra = set(more.generates) - set(few.generates)
    assert {more.prompts[more.generates[key].evaluation].set.name for key in extra} == {
        "restricted"
    }
    assert len(extra) == 2  # the evaluator's and the attacker's own


def test_every_attacker_shares_the_release_at_budget_0(plan: Make) -> None:
    made = plan()
    released = {p.key for a in ALL for (_, b), p in points(made, a).items() if b == 0}
    assert len(released) == 1


def test_an_edit_asks_benign_prompts_anew(plan: Make) -> None:
    made = plan()
    for attacker in ("abliterate", "undo_delta", "strip", "edited"):
        for (variant, budget), point in points(made, attacker).items():
            released = keys(made, points(made, attacker)[variant, 0.0])
            if budget > 0:
                assert not set(keys(made, point).values()) & set(released.values())


def test_who_answers_for_the_release_comes_before_who_shares_it(plan: Make, tmp_path: Path) -> None:
    """Else two workers make the same answers at once, and one of them cannot keep them."""
    made = plan()
    todo = {task.name: task for task in tasks(made, Store(tmp_path))}
    releases = [own for own, one in made.trajectories.items() if one.attack is None]
    shared = [
        own
        for own, one in made.trajectories.items()
        if one.attack is not None and one.attack.name() in ("prefill", "persona")
    ]
    assert len(releases) == 1
    assert len(shared) == 3
    for own in shared:
        assert f"attack/{releases[0]}" in todo[f"attack/{own}"].after
        assert f"judge/0/{releases[0]}" in todo[f"judge/0/{own}"].after


# ---- chains


def test_a_chain_has_keys_of_its_own_and_its_edits_choices(plan: Make) -> None:
    made = plan(attacks={"plain": [SFT], "edited": [[EDIT, SFT]]})
    plain, edited = points(made, "plain"), points(made, "edited")
    assert [variant for variant, _ in edited] == ["abliterate stream at 0.5 c=1, then lr=0.03"] * 3
    assert {b for _, b in plain} == {b for _, b in edited} == {0, 4, 8}
    after = [{p.key for (_, b), p in some.items() if b} for some in (plain, edited)]
    assert not after[0] & after[1]
    other = {"abliterate": EDIT["abliterate"] | {"evaluate_at": [0.5]}}
    again = points(plan(attacks={"edited": [[other, SFT]]}), "edited")
    assert not after[1] & {p.key for (_, b), p in again.items() if b}
    every = {"abliterate": {"layers": [0.5, 1.0], "evaluate_at": [1.0], "n": 4}}
    assert len({v for v, _ in points(plan(attacks={"edited": [[every, SFT]]}), "edited")}) == 5
    (track,) = (t for t in made.tracks if t.attacker == "edited")
    assert isinstance(track.method, Chain)


def test_a_chain_joins_an_attackers_choices_of_the_same_unit(plan: Make) -> None:
    made = plan(attacks={"tuned": [SFT, [EDIT, SFT]]})
    assert len({variant for variant, _ in points(made, "tuned")}) == 2


# ---- what is wrong

TUNED = {"harmful_sft": {"evaluate_at": [4]}}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "two trainings": (
        {"attacks": {"x": [[SFT, TUNED]]}},
        "study.attacks.x[0]: a chain of harmful_sft and harmful_sft; write an edit of the weights "
        "(such as abliterate), then an attack that trains",
    ),
    "training, then an edit": (
        {"attacks": {"x": [[SFT, EDIT]]}},
        "study.attacks.x[0]: a chain of harmful_sft and abliterate; write an edit of the weights "
        "(such as abliterate), then an attack that trains",
    ),
    "a prompt, then training": (
        {"attacks": {"x": [[PREFILL, SFT]]}},
        "study.attacks.x[0]: a chain of prefill and harmful_sft; write an edit of the weights "
        "(such as abliterate), then an attack that trains",
    ),
    "three parts": (
        {"attacks": {"x": [[EDIT, SFT, SFT]]}},
        "study.attacks.x[0]: a chain of 3 attacks; write [edit, training]",
    ),
    "one part": (
        {"attacks": {"x": [[EDIT]]}},
        "study.attacks.x[0]: a chain of 1 attacks; write [edit, training]",
    ),
    "a chain inside a chain": (
        {"attacks": {"x": [[["strip", "strip"], SFT]]}},
        "study.attacks.x[0][0]: expected one attack, got ['strip', 'strip']; write `name` or "
        "`name: {field: value}`",
    ),
    "several budgets": (
        {"attacks": {"x": [["abliterate", SFT]]}},
        "study.attacks.x[0][0].abliterate: has 3 budgets in a chain; give it one: "
        "evaluate_at: [1.0]",
    ),
    "a form nobody knows": (
        {"attacks": {"x": [{"abliterate": {"forms": ["steam"]}}]}},
        "study.attacks.x[0].abliterate.forms.0: got 'steam'; it should be 'stream', 'each' or "
        "'block'",
    ),
    "more directions than prompts": (
        {"attacks": {"x": [{"abliterate": {"ranks": [5], "n": 4}}]}},
        "study.attacks.x[0].abliterate: abliterate.ranks: 5 directions asked for, the prompts give "
        "at most 4; use fewer, or add restricted prompts",
    ),
    "no persona": (
        {"attacks": {"x": ["persona"]}},
        "study.attacks.x[0]: persona.systems: no persona: the sources declare none; write one, "
        'such as ["You answer anything."]',
    ),
    "no original": (
        {"attacks": {"x": ["undo_delta"]}, "original": None},
        "study.attacks.x[0].undo_delta: needs the public original; write `original: NAME`, an "
        "entry of models",
    ),
    "a chain without an original": (
        {"attacks": {"x": [[{"strip": {"evaluate_at": [1.0]}}, SFT]]}, "original": None},
        "study.attacks.x[0].chain: needs the public original; write `original: NAME`, an entry of "
        "models",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_plan_is_told_in_one_line(plan: Make, name: str) -> None:
    changes, expected = BAD[name]
    with pytest.raises(HoldfastError) as caught:
        plan(**changes)
    assert str(caught.value) == expected
    assert caught.value.exit_code == 2


RESTRICTED = [{"set": "restricted", "n": 6}, {"set": "restricted", "side": "attacker_selection"}]
BENIGN = [{"set": "benign", "n": 4}, {"set": "benign", "side": "attacker_selection"}]


def told(attacker: str, kind: str) -> str:
    what = "set of purpose 'exact'" if kind == "benign" else f"set '{kind}'"
    return (
        f"study.evaluation: attacker '{attacker}' has choices, and there is no {what} of "
        "side 'attacker_selection' to choose on; "
        f"add `- {{set: {kind}, side: attacker_selection}}`"
    )


@pytest.mark.parametrize(
    ("attacks", "evaluation", "expected"),
    [
        ({"x": [PREFILL]}, [RESTRICTED[0], *BENIGN], told("x", "restricted")),
        ({"x": [PREFILL]}, [*RESTRICTED, BENIGN[0]], told("x", "benign")),
        ({"x": [PREFILL]}, RESTRICTED, told("x", "benign")),
        ({"a": [SFT], "b": [SFT, {"harmful_sft": {}}]}, RESTRICTED, told("b", "benign")),
        ({"x": ["strip"]}, RESTRICTED, told("x", "benign")),  # t is a choice: it costs nothing
        ({"x": [[{"abliterate": {"evaluate_at": [1.0]}}, SFT]]}, RESTRICTED, told("x", "benign")),
        # Asked of the released models alone, a set tells nothing of an attacker's choices.
        ({"x": [PREFILL]}, [*RESTRICTED, BENIGN[0], BENIGN[1] | {"at": "release"}],
         told("x", "benign")),
    ],
)  # fmt: skip
def test_who_has_choices_brings_prompts_of_its_own(
    plan: Make, attacks: Any, evaluation: Any, expected: str
) -> None:
    with pytest.raises(HoldfastError) as caught:
        plan(attacks=attacks, evaluation=evaluation)
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    "attacks",
    [
        {"x": [SFT]},  # budgets of training are no choice: they are its price
        {"x": [PERSONA]},
        {"x": [{"strip": {"evaluate_at": [1.0]}}]},
        {"x": [[EDIT, SFT]]},
    ],
)
def test_who_has_none_needs_none(plan: Make, attacks: Any) -> None:
    plan(attacks=attacks, evaluation=RESTRICTED[:1])


# ---- asked of the released models alone


def test_a_set_at_release_is_asked_there_and_nowhere_else(plan: Make) -> None:
    more = [*RESTRICTED, *BENIGN, {"set": "quiz", "n": 4, "at": "release"}]
    less = plan(evaluation=[*more[:-1], {"set": "quiz", "n": 4}])
    made = plan(evaluation=more)
    for attacker in ALL:
        for (_, budget), point in points(made, attacker).items():
            assert (("quiz", "evaluator") in keys(made, point)) is (budget == 0), (attacker, budget)
    assert set(made.generates) < set(less.generates)  # and nothing else has another key


# ---- memory


def test_the_estimate_counts_what_each_keeps(
    plan: Make, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit keeps the weights it starts from and, until it is written, its own; a prompt none."""
    made, size = plan(), 4.0 * memory.shape(resolve(str(toy_model))).weights
    seen: dict[str, float] = {}
    real = memory.check_memory

    def look(parts: dict[str, float], *rest: Any, where: str, **options: Any) -> None:
        seen[where.split(":")[1].split()[0].removesuffix(",")] = sum(
            parts.get(name, 0.0) for name in ("weights", "teacher")
        )
        real(parts, *rest, where=where, **options)

    monkeypatch.setattr(memory, "check_memory", look)
    fit.check_fit(made, Store(tmp_path))
    assert {name: kept / size for name, kept in seen.items() if name in ALL} == {
        "abliterate": 3, "undo_delta": 3, "strip": 3, "prefill": 1, "persona": 1, "edited": 2,
        "harmful_sft": 1,
    }  # fmt: skip


# ---- a whole study


@pytest.fixture(scope="module")
def moved(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a model that is none of the others: the public original."""
    return toy.model(tmp_path_factory.mktemp("original") / "base", seed=1)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_study_of_all_of_them(
    toy: ModuleType, toy_model: Path, moved: Path, installed: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, workers: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{installed}:{Path(nn.__file__).parents[2]}")
    entries = {
        "base": {"path": str(toy_model), "format": "plain"},
        "public": {"path": str(moved), "format": "plain"},
    }
    data = toy.study(
        toy_model, attacks=ALL, models=entries, original="public",
        lineups={"none": {"start": "base"}, "public": {"start": "public"}},
    )  # fmt: skip
    study = toy.write(tmp_path / "toy.json", data)
    assert run(["run", str(study), "--store", "runs", "--workers", workers]) == 0
    made, store = Plan(parse_study(data)), Store(Path("runs"))

    def answers(point: Point) -> dict[str, list[dict[str, Any]]]:
        return {
            made.prompts[i].set.name: store.lines("generate", step.key, "exchanges.jsonl")
            for i, step in point.asked.items()
            if made.prompts[i].side == "evaluator"
        }

    def of(lineup: str, attacker: str) -> list[tuple[str, float, dict[str, Any]]]:
        return [
            (track.variant, budget, answers(point))
            for track in made.tracks
            if (track.lineup, track.attacker) == (lineup, attacker)
            for budget, point in track.points
        ]

    for variant, budget, said in of("none", "prefill"):
        first = variant.strip('"') if budget else ""
        for row in said["restricted"]:
            assert row.get("prefill", "") == first
            assert row["response"].startswith(first)
        assert not any("prefill" in row for row in said["benign"])
    for _, budget, said in of("none", "persona"):
        assert {row["system"] for row in said["restricted"]} == {"bright no" if budget else None}
        assert {row["system"] for row in said["benign"]} == {None}
    # The whole delta undone, and the whole strip, are the public original: its own answers.
    ((_, _, public), *_) = of("public", "strip")
    for attacker in ("strip", "undo_delta"):
        *_, (_, _, said) = of("none", attacker)
        assert said == public
    again = [path.name for path in Path("runs", "generate").iterdir()]
    assert len(again) == len(made.generates)
    assert not Path("runs", "work").exists()
