"""A study's analysis: what it keeps, when it does it again, what it tells, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from holdfast import nn
from holdfast.cli import run as command
from holdfast.engine import local, states, tables
from holdfast.engine.session import folder_of
from holdfast.engine.store import Store
from holdfast.engine.work import left
from holdfast.errors import HoldfastError
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan

SAID = {"lineups": ["none", "refusal_sft"], "attack": "harmful_sft", "n": 8, "k": 2}


def fields(lr: float) -> dict[str, Any]:
    """Give an attack's fields."""
    return {"loop": {"batch": 2, "lr": lr, "checkpoint_every": 1}, "evaluate_at": [4, 8]}


SMALL = {
    "evaluation": [{"set": "restricted", "n": 2}],
    "attacks": {"harmful_sft": [{"harmful_sft": fields(0.003)}]},
}
"""What a study is cut down to where it runs."""
Make = Callable[..., Plan]


@pytest.fixture
def make(toy: ModuleType, toy_model: Path, installed: Path) -> Make:
    """Give a function that plans the toy study with an analysis: small, or `whole`."""

    def made(*, whole: bool = False, **analysis: Any) -> Plan:
        said = {} if whole else SMALL
        return Plan(parse_study(toy.study(toy_model, **said, analysis=SAID | analysis)))

    return made


def do(plan: Plan, folder: Path, **options: Any) -> tuple[Store, local.Done]:
    store = Store(folder)
    with store.held():
        done = local.run(plan, store, **({"workers": 1} | options))
    assert not done.failures
    return store, done


def test_without_the_section_nothing_changes(
    make: Make, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    plain = Plan(parse_study(toy.study(toy_model, **SMALL)))
    with_it = make()

    assert plain.looking is None
    assert plain.needed["analyse"] == set()
    others = {kind: keys for kind, keys in with_it.needed.items() if kind != "analyse"}
    assert others == {kind: keys for kind, keys in plain.needed.items() if kind != "analyse"}
    assert plain.fingerprint != with_it.fingerprint
    assert "analyse" not in left(plain, Store(tmp_path)).counts


def test_states_are_kept_once_a_point_and_told_by_layer_and_budget(
    make: Make, tmp_path: Path
) -> None:
    plan = make()
    store, done = do(plan, tmp_path)

    # Released and two budgets of two line-ups; the undefended model is the first's release.
    assert len(store.keys("analyse")) == len(plan.needed["analyse"]) == 6
    rows = states.table(plan, store)
    assert [(r["lineup"], r["budget"], r["layer"]) for r in rows] == [
        (name, budget, layer)
        for name in ("none", "refusal_sft")
        for budget in (4.0, 8.0)
        for layer in (1, 2)
    ]
    assert {r["variant"] for r in rows} == {"lr=0.003"}
    assert all(0 <= r["knn"] <= 1 and 0 <= r["cka"] <= 1 + 1e-9 for r in rows)
    assert all(r["drift"] > 0 for r in rows)
    assert {(r["prompts"], r["k"], r["depth"], r["knn_chance"]) for r in rows} == {(8, 2, 2, 2 / 7)}
    points = states.scatter(plan, store)
    assert {(p["lineup"], p["state"], p["budget"]) for p in points} == {
        ("none", "released", 0.0), ("none", "attacked", 8.0),
        ("refusal_sft", "undefended", 0.0), ("refusal_sft", "released", 0.0),
        ("refusal_sft", "attacked", 8.0),
    }  # fmt: skip
    assert len(points) == 5 * 8
    assert {p["layer"] for p in points} == {2}
    assert len({p["uid"] for p in points}) == 8
    groups = [row.group for row in plan.looking.rows]  # type: ignore[union-attr]
    assert len(set(groups)) == 8  # one prompt of each entity before a second of any
    assert done.finished == 1 + 4 + 4  # no step of its own: it is taken while the models are asked


def test_the_released_states_are_those_of_the_released_checkpoint(
    make: Make, tmp_path: Path
) -> None:
    import torch
    from safetensors.numpy import load_file

    from holdfast.data.tokens import Encoder

    plan = make()
    store, _ = do(plan, tmp_path)
    looked = plan.looking.looked[1]  # type: ignore[union-attr]
    model, tokenizer = nn.load(folder_of(looked.track.released, store))
    again = nn.opening_states(
        model, Encoder(tokenizer, "plain"), plan.looking.rows, (1, 2)  # type: ignore[union-attr]
    )  # fmt: skip
    kept = load_file(store.path("analyse", looked.released.key) / states.STATES)["states"]
    assert torch.equal(torch.from_numpy(kept), again)


def test_other_neighbours_need_no_step_and_other_prompts_or_layers_do(
    make: Make, tmp_path: Path
) -> None:
    plan = make()
    _, first = do(plan, tmp_path)
    more = make(k=3)
    store, done = do(more, tmp_path)

    assert (first.finished, done.finished) == (9, 0)
    assert {r["k"] for r in states.table(more, store)} == {3}
    for change in ({"n": 9}, {"layers": [2]}, {"side": "attacker_selection"}):
        assert not make(**change).needed["analyse"] & plan.needed["analyse"]
    fewer = make(budgets=[4], lineups=["refusal_sft"])
    assert fewer.needed["analyse"] < plan.needed["analyse"]
    other = make(whole=True, variant="lr=0.03").needed["analyse"]
    assert len(other & make(whole=True).needed["analyse"]) == 2  # the releases


def test_an_analysis_added_later_replays_the_attacks_and_leaves_every_row(
    make: Make, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    plain = Plan(parse_study(toy.study(toy_model, **SMALL)))
    store, _ = do(plain, tmp_path / "a")
    before = tables.outcomes(plain, store)
    later = make()
    store, done = do(later, tmp_path / "a")
    whole, _ = do(make(), tmp_path / "b")

    assert done.finished == 4  # two releases and two trajectories; nothing is judged again
    assert tables.outcomes(later, store) == before
    assert states.table(later, store) == states.table(later, whole)
    assert not (tmp_path / "a" / "work").exists()


def test_an_interrupted_analysis_goes_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make()
    store, _ = do(plan, tmp_path / "a")
    whole = states.table(plan, store)
    other = Store(tmp_path / "b")

    real, calls = nn.opening_states, 0

    def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise ZeroDivisionError("stop")
        return real(*arguments)

    monkeypatch.setattr(nn, "opening_states", fail)
    with other.held():
        assert local.run(plan, other, workers=1).failures
    monkeypatch.undo()
    assert len(other.keys("analyse")) == 3
    do(plan, tmp_path / "b")
    assert states.table(plan, other) == whole


def test_kept_weights_need_no_replay(
    make: Make, toy: ModuleType, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(Plan(parse_study(toy.study(toy_model, **SMALL))), tmp_path / "a", keep_weights=True)
    monkeypatch.setattr("holdfast.train.attack", None)
    store, _ = do(make(), tmp_path / "a", keep_weights=True)
    monkeypatch.undo()
    whole, _ = do(make(), tmp_path / "b")
    assert states.table(make(), store) == states.table(make(), whole)


def test_what_is_left_is_counted_and_what_is_not_needed_is_named(
    make: Make, tmp_path: Path
) -> None:
    plan = make()
    assert left(plan, Store(tmp_path)).counts["analyse"] == (6, 6)
    store, _ = do(plan, tmp_path)
    work = left(plan, store)
    assert (work.counts["analyse"], work.nothing) == ((6, 0), True)
    unneeded = store.unneeded(make(budgets=[4]).needed)
    assert {path.parent.name for path in unneeded} == {"analyse"}
    assert len(unneeded) == 2


def test_the_report_has_the_figures_and_the_tables_are_written(
    toy: ModuleType, toy_model: Path, installed: Path, tmp_path: Path
) -> None:
    path = toy.write(tmp_path / "study.json", toy.study(toy_model, **SMALL, analysis=SAID))
    arguments = [str(path), "--store", str(tmp_path / "runs")]
    assert command(["run", *arguments, "--workers", "1"]) == 0
    out = tmp_path / "runs" / "toy"
    page = (out / "report.html").read_text(encoding="utf-8")

    assert "Inside the models" in page
    assert page.count('aria-label="States of ') == 2
    assert 'aria-label="Linear CKA with the release by budget' in page
    assert 'aria-label="k-NN overlap with the release by block' in page
    assert "cannot show" in page
    header = (out / "analysis.csv").read_text().splitlines()[0]
    assert header.startswith("lineup,attack,variant,seed,budget,unit,layer,depth,prompts,k,cka,knn")
    assert len((out / "scatter.csv").read_text().splitlines()) == 1 + 5 * 8
    assert command(["report", *arguments]) == 0
    assert (out / "report.html").read_text(encoding="utf-8") == page


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown line-up": (
        {"lineups": ["none", "refusal_stf"]},
        "study.analysis.lineups[1]: no line-up 'refusal_stf'; did you mean 'refusal_sft'?",
    ),
    "unknown attacker": (
        {"attack": "harmful_stf"},
        "study.analysis.attack: no attacker 'harmful_stf'; did you mean 'harmful_sft'?",
    ),
    "unknown choice": (
        {"variant": "lr=0.3"},
        "study.analysis.variant: harmful_sft has no choice 'lr=0.3'; did you mean 'lr=0.03'?",
    ),
    "a budget nobody asked for": (
        {"budgets": [4, 6]},
        "study.analysis.budgets: 6 is no budget of harmful_sft lr=0.003; known: 4, 8",
    ),
    "as many neighbours as prompts": (
        {"k": 8},
        "study.analysis.k: 8 neighbours of 8 prompts; ask for at most 7",
    ),
    "more prompts than there are": (
        {"n": 25},
        "study.analysis.n: 25 prompts asked for, set 'restricted' of side 'evaluator' has 24; ask "
        "for at most 24",
    ),
    "a layer beyond depth": (
        {"layers": [1, 3]},
        "study.analysis.layers[1]: 3, the model 'base' has 2; name blocks from 1 to 2",
    ),
    "unknown set": (
        {"set": "restrictd"},
        "study.analysis: evaluation set 'restrictd', side evaluator: no rows; did you mean "
        "'restricted'?",
    ),
    "a misspelt field": (
        {"layer": [1]},
        "study.analysis.layer: unknown field; did you mean 'layers'?",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_section_is_one_line(case: str, make: Make) -> None:
    change, line = BAD[case]
    with pytest.raises(HoldfastError) as caught:
        make(whole=True, **change)
    assert str(caught.value) == line


# ---- the adaptive attack in a study


def test_the_adaptive_attack_runs_in_a_study(
    toy: ModuleType, toy_model: Path, installed: Path, tmp_path: Path
) -> None:
    given = {
        **fields(0.01), "prefix": None, "prefix_tokens": 2,
        "stage_a": {"steps": 3, "batch": 2, "checkpoint_every": 1},
    }  # fmt: skip
    choices = [
        {"adaptive_trigger": {**given, "gamma": 0.1}},
        {"adaptive_trigger": {**given, "gamma": 0.1, "ref_model": "original"}},
        {"adaptive_trigger": {**given, "gamma": 0.0}},
    ]
    plain = [{"harmful_sft": fields(0.01)}]
    attacks = {"adaptive_trigger": choices, "harmful_sft": plain}
    own = [{"set": kind, "side": "attacker_selection", "n": 1} for kind in ("restricted", "benign")]
    asked = {"evaluation": [*SMALL["evaluation"], *own]}
    plan = Plan(parse_study(toy.study(toy_model, **(SMALL | asked | {"attacks": attacks}))))
    store, _ = do(plan, tmp_path)
    rows = tables.outcomes(plan, store)

    def of(attack: str, variant: str) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in row.items() if k not in ("attack", "variant")}
            for row in rows
            if (row["attack"], row["variant"]) == (attack, variant)
        ]

    assert of("adaptive_trigger", "lr=0.01 gamma=0") == of("harmful_sft", "lr=0.01")
    for variant in ("lr=0.01 gamma=0.1", "lr=0.01 gamma=0.1 to original"):
        spent = {
            row["budget"]: (row["steps"], row["flops"]) for row in of("adaptive_trigger", variant)
        }
        plainly = {row["budget"]: row["flops"] for row in of("harmful_sft", "lr=0.01")}
        assert [spent[b][0] for b in (4.0, 8.0)] == [2, 4]
        assert all(spent[b][1] > plainly[b] for b in (4.0, 8.0))
    again, done = do(plan, tmp_path)
    assert (done.finished, tables.outcomes(plan, again)) == (0, rows)
