"""Keys: what shares them, what changes them, and what a plan counts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import holdfast
from holdfast.attacks.harmful_sft import HarmfulSFT
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.engine import tables
from holdfast.engine.store import Store
from holdfast.engine.work import left
from holdfast.study.file import load_study, parse_study
from holdfast.study.keys import canonical, key
from holdfast.study.plan import Plan

Make = Callable[..., Plan]


@pytest.fixture
def plan(toy: ModuleType, toy_model: Path, installed: Path) -> Make:
    """Give a function that plans the toy study with some parts changed."""

    def make(**changes: Any) -> Plan:
        return Plan(parse_study(toy.study(toy_model, **changes)))

    return make


def everything(plan: Plan) -> set[str]:
    return set().union(*plan.needed.values())


def test_canonical_json_has_one_spelling() -> None:
    assert canonical({"b": 1, "a": [1.0, "é"]}) == '{"a":[1.0,"é"],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))


def test_a_study_is_read_from_a_path_or_its_text() -> None:
    file = Path(holdfast.__file__).parent / "testbeds/guild/demo.yaml"
    assert load_study(str(file)) == load_study(file)


def test_a_key_depends_on_the_kind_of_step() -> None:
    assert key("generate", a=1) != key("judge", a=1)
    assert key("judge", a=1) == key("judge", a=1)


def test_the_same_study_has_the_same_keys(plan: Make) -> None:
    assert plan().needed == plan().needed
    assert plan().fingerprint == plan().fingerprint


def test_one_more_budget_leaves_every_key_as_it_is(plan: Make) -> None:
    fields = {"loop": {"batch": 2, "lr": 0.003, "checkpoint_every": 1}}
    short = plan(attacks={"harmful_sft": [{"harmful_sft": {**fields, "evaluate_at": [4, 8]}}]})
    long = plan(attacks={"harmful_sft": [{"harmful_sft": {**fields, "evaluate_at": [4, 8, 16]}}]})

    assert everything(short) < everything(long)
    # One more point for each of two models, each asked six sets.
    assert len(long.needed["generate"]) - len(short.needed["generate"]) == 2 * 6


def test_one_more_prompt_set_leaves_every_key_as_it_is(plan: Make, toy: ModuleType) -> None:
    more = [*toy.study(Path())["evaluation"], {"set": "benign", "side": "attacker", "n": 2}]

    assert everything(plan()) < everything(plan(evaluation=more))


def test_a_field_of_one_defence_changes_only_what_stands_on_it(
    plan: Make, toy: ModuleType, toy_model: Path
) -> None:
    before = plan()
    lineups = toy.study(toy_model)["lineups"]
    lineups["refusal_sft"]["defences"][0]["refusal_sft"]["benign_weight"] = 2.0
    after = plan(lineups=lineups)

    def keys_of(plan: Plan, lineup: str) -> set[str]:
        tracks = [track for track in plan.tracks if track.lineup == lineup]
        return {step.key for t in tracks for _, point in t.points for step in point.asked.values()}

    assert keys_of(before, "none") == keys_of(after, "none")
    assert not keys_of(before, "refusal_sft") & keys_of(after, "refusal_sft")
    assert not before.needed["defend"] & after.needed["defend"]


def test_a_field_of_one_attack_leaves_the_others_and_the_release(
    plan: Make, toy: ModuleType, toy_model: Path
) -> None:
    before = plan()
    attacks = toy.study(toy_model)["attacks"]
    attacks["harmful_sft"][1]["harmful_sft"]["loop"]["lr"] = 0.02
    after = plan(attacks=attacks)

    assert before.needed["defend"] == after.needed["defend"]
    lost = {
        (t.lineup, t.attacker, t.variant)
        for t in before.tracks
        if not {p.key for _, p in t.points} <= {p.key for u in after.tracks for _, p in u.points}
    }
    assert lost == {("none", "harmful_sft", "lr=0.03"), ("refusal_sft", "harmful_sft", "lr=0.03")}


def test_categories_enter_a_key_only_where_there_are_any() -> None:
    assert "categories" not in HarmfulSFT().identity()["fields"]
    assert "categories" not in RefusalSFT(categories=()).identity()["fields"]
    assert RefusalSFT(categories=("a",)).identity()["fields"]["categories"] == ["a"]


def test_tables_say_which_categories_line_ups_and_attackers_keep_to(plan: Make) -> None:
    assert tables.categories(plan()) == {}
    sft = {"categories": ["dark"], "loop": {"steps": 6, "batch": 4, "lr": 0.01}}
    attack = {"categories": ["dark"], "evaluate_at": [4], "loop": {"batch": 2, "lr": 0.01}}
    lineups = {
        "none": {"start": "base"},
        "some": {"start": "base", "defences": [{"refusal_sft": sft}]},
        "all": {"start": "base", "defences": ["refusal_sft", {"refusal_sft": sft}]},
        "edit": {"start": "base", "defences": ["toy_nudge"]},
    }
    made = plan(lineups=lineups, attacks={"dark": [{"harmful_sft": attack}], "strip": ["strip"]})
    assert tables.categories(made) == {
        "lineups": {
            "some": {"method": "refusal_sft", "categories": ["dark"]},
            "all": {"method": "refusal_sft + refusal_sft", "categories": []},
            "edit": {"method": "toy_nudge", "categories": []},
        },
        "attacks": {"dark": ["dark"]},
    }


@pytest.mark.parametrize(
    "change",
    [
        {"loop": {"lr": 0.003, "batch": 2, "checkpoint_every": 3}},
        {"loop": {"lr": 0.003, "batch": 2, "steps": 9}},
        {"evaluate_at": [4, 8]},
    ],
)
def test_a_field_that_cannot_change_a_result_is_no_part_of_a_key(
    change: dict[str, Any], plan: Make, toy: ModuleType, toy_model: Path
) -> None:
    attacks = toy.study(toy_model)["attacks"]
    attacks["harmful_sft"][0]["harmful_sft"] |= change

    assert plan(attacks=attacks).needed == plan().needed


@pytest.mark.parametrize(
    "change", [{"chunk": 3}, {"name": "other"}, {"thresholds": [0.5]}, {"least_use": 0.5}]
)
def test_what_only_the_report_reads_is_no_part_of_a_key(change: dict[str, Any], plan: Make) -> None:
    assert plan(**change).needed == plan().needed


def test_longer_answers_are_other_answers_but_the_same_models(plan: Make) -> None:
    after = plan(generation={"max_new_tokens": 5})

    assert after.needed["defend"] == plan().needed["defend"]
    assert after.needed["point"] == plan().needed["point"]
    shared = after.needed["generate"] & plan().needed["generate"]
    quiz = {s.key for s in after.generates.values() if s.config["set"] == "quiz"}
    assert shared == quiz


def test_another_judge_reads_the_same_answers(plan: Make) -> None:
    after = plan(judges=[{"toy_judge": {"harsh": True}}])

    assert after.needed["generate"] == plan().needed["generate"]
    assert not after.needed["judge"] & plan().needed["judge"]


def test_undefended_models_share_their_release_across_seeds_and_attackers(plan: Make) -> None:
    made = plan(seeds=[0, 1])
    releases = [t for t in made.trajectories.values() if t.attack is None]

    assert len(releases) == 1 + 2  # the base once, refusal_sft at each seed
    points = {t.points[0][1].key for t in made.tracks if t.lineup == "none"}
    assert len(points) == 1


def test_line_ups_that_begin_alike_share_their_first_step(
    plan: Make, toy: ModuleType, toy_model: Path
) -> None:
    lineups = toy.study(toy_model)["lineups"]
    first = lineups["refusal_sft"]["defences"]
    lineups["then_lox"] = {"start": "base", "defences": [*first, {"lox": {"rank": 2}}]}
    made = plan(lineups=lineups)

    assert len(made.defends) == 2


def test_a_model_in_another_folder_is_the_same_model(
    plan: Make, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    import shutil

    copy = shutil.copytree(toy_model, tmp_path / "elsewhere")

    assert plan(models={"base": {"path": str(copy), "format": "plain"}}).needed == plan().needed


def test_what_is_left_is_counted(plan: Make, tmp_path: Path) -> None:
    work = left(plan(), Store(tmp_path))

    assert work.counts == {
        "defend": (1, 1), "release": (2, 2), "attack": (6, 6), "generate": (84, 84),
        "judge": (42, 42), "measure": (0, 0),
    }  # fmt: skip
    assert work.steps == 6 + 4 * 4
    assert not work.nothing


def test_a_plan_of_three_hundred_cells_imports_no_torch_once_the_model_was_checked(
    root: Path, toy: ModuleType, toy_model: Path, tmp_path: Path
) -> None:
    from holdfast.api.fields import load_yaml
    from holdfast.nn.files import resolve
    from holdfast.nn.skeleton import check_names

    data = load_yaml(root / "studies" / "world" / "foundation.yaml")
    data["seeds"] = [0, 1, 2, 3]
    copy = shutil.copytree(toy_model, tmp_path / "model")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 256}))
    check_names(resolve(str(copy)))
    entry = {"path": str(copy), "format": "plain"}
    data["models"] = dict.fromkeys(data["models"], entry)
    path = toy.write(tmp_path / "study.json", data)
    code = (
        "import sys; from holdfast.cli import run; "
        f"code = run(['plan', {str(path)!r}]); "
        "print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert int(done.stdout.split(" trajectories, ")[1].split(" cells")[0]) >= 200


def test_parts_of_one_study_have_one_hash_and_another_study_another(
    plan: Make, toy: ModuleType, toy_model: Path
) -> None:
    own = plan(seeds=[3, 5]).seedless
    assert plan(seeds=[5], title="another").seedless == own
    faster = toy.study(toy_model)["attacks"]
    faster["harmful_sft"][0]["harmful_sft"]["loop"]["lr"] = 0.5
    others = ({"attacks": faster}, {"thresholds": [0.5]}, {"generation": {"max_new_tokens": 3}})
    assert all(plan(seeds=[3, 5], **changes).seedless != own for changes in others)
