"""An estimate needs no network, no model and no rows; it refuses what cannot be, in one line."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from holdfast.api import Loop, LoRA, Rows, registry
from holdfast.api.fields import parse_yaml
from holdfast.cli import run
from holdfast.data.published import Published
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.sgt import SGT
from holdfast.engine.cards import CARDS, card
from holdfast.engine.estimate import Estimate, Training, answering, estimate
from holdfast.engine.fits import Step, advice, check_fits
from holdfast.engine.sizes import Lengths
from holdfast.engine.store import Store
from holdfast.errors import ConfigError, ModelError
from holdfast.nn import memory
from holdfast.nn.files import resolve
from holdfast.nn.shapes import known_shape
from holdfast.study.file import parse_study
from holdfast.study.plan import Plan
from holdfast.study.standins import StandIns

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAPER = f"""
name: paper
seeds: [0]
models:
  base: {{path: Qwen/Qwen3-8B-Base@{COMMIT}, format: plain}}
sources: [wildguardmix, beavertails, {{openbookqa: {{}}}}]
lineups:
  vanilla: {{start: base}}
  sgt:
    start: base
    defences:
      - sgt:
          preset: absolute
          n_refusal: 2500
          n_benign: 2500
          loop: {{precision: bf16_kahan, micro_batch: 1}}
attacks:
  sft: [{{harmful_sft: {{loop: {{precision: bf16_kahan}}}}}}]
evaluation: [{{set: beavertails, n: 500}}, {{set: openbookqa, at: release}}]
judges:
  - llama_guard: {{model: meta-llama/Llama-Guard-3-8B@{COMMIT}}}
  - rubric:
      endpoint:
        model: some
        base_url: "http://127.0.0.1:9/v1"
        prices: {{input: 2.0, output: 8.0}}
"""


def study(**changes: Any) -> dict[str, Any]:
    data = parse_yaml(PAPER, "test")
    return {**data, **changes}


def estimated(data: dict[str, Any], tmp_path: Path, on: str = "141gb") -> Estimate:
    stand_ins = StandIns()
    plan = Plan(parse_study(data), stand_ins=stand_ins)
    return estimate(plan, Store(tmp_path / "runs"), card(on), stand_ins)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    return estimated(study(), tmp_path_factory.mktemp("estimate"))


def test_every_kind_of_step_is_counted(found: Estimate) -> None:
    assert {kind: line.number for kind, line in found.lines.items()} == {
        "defend": 1,
        "attack": 2,
        "generate": 10,  # 2 line-ups x 4 budgets, and openbookqa of the two released
        "judge": 1,
    }
    assert all(line.flops > 0 and line.seconds > 0 for line in found.lines.values())
    assert found.seconds == sum(line.seconds for line in found.lines.values())


def test_sgt_costs_what_its_passes_say(found: Estimate) -> None:
    """2,500 + 2,500 rows, three epochs, counted by hand from the lengths that are declared."""
    of = known_shape("Qwen/Qwen3-8B-Base")
    assert of is not None
    prompt, said, steps = 110 + 8, 160, 1875
    row = prompt + said
    teacher, student, head = 2 * 4 * (row + 1), 3 * 2 * 4 * row, 3 * 4 * said
    stage1 = 1250 * 4 * 3 * 2  # rows, copies, passes
    body = steps * (teacher + student) + stage1 * (row + 1)
    whole = 2.0 * (body * of.body + (steps * head + stage1 * said) * of.head)
    assert found.lines["defend"].flops == pytest.approx(whole, rel=1e-9)


def test_each_method_is_told_what_fits_each_card(found: Estimate) -> None:
    size, cards = found.fits["sgt on base"]
    assert cards == {
        "80gb": "lora in bf16_stochastic (full training: several cards)",
        "141gb": "as written",
    }
    assert 110 < size / 2**30 < 139


def test_judges_are_told_in_calls_tokens_and_money(found: Estimate) -> None:
    guard, rubric = found.judges
    assert guard.calls == rubric.calls == 8 * 500  # at every budget of both line-ups
    assert rubric.read == 4000 * (500 + 20 + 8 + 512)
    assert rubric.money == pytest.approx((rubric.read * 2 + rubric.written * 8) / 1e6)
    assert guard.money is None
    assert guard.flops > 0


def test_what_was_not_checked_is_listed(found: Estimate) -> None:
    assert [line.partition(":")[0] for line in found.unchecked] == [
        "source wildguardmix",
        "source beavertails",
        "source openbookqa",
        "model base",
        "judge llama_guard",
        "judge rubric",
    ]


def test_disk_is_told(found: Estimate) -> None:
    of = known_shape("Qwen/Qwen3-8B-Base")
    assert of is not None
    assert found.disk["checkpoints"] == 2 * of.weights
    assert found.disk["work (while a step trains)"] > 4 * found.disk["checkpoints"]
    assert found.disk["answers and verdicts"] > 8 * 500 * 512


def test_the_command_says_all_of_it_and_imports_no_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "paper.json"
    path.write_text(json.dumps(study()))
    assert run(["plan", str(path), "--estimate", "--store", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("estimate of paper: 2 line-ups x 1 seeds, 8 cells, on one GPU of 141 GB")
    assert "\nin all: about " in said
    assert "\nmemory of sgt on base: " in said
    assert (
        "\nnot checked: source wildguardmix: not fetched; numbers of rows are partly a guess"
        in said
    )
    assert not (tmp_path / "runs").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "more prompts than a set has": (
        {"evaluation": [{"set": "beavertails"}, {"set": "openbookqa", "n": 501}]},
        "study.evaluation[1]: evaluation set 'openbookqa', side evaluator: 501 groups asked for, "
        "the pool has 500; ask for at most 500",
    ),
    "more rows than a source has": (
        {"lineups": {"a": {"start": "base", "defences": [{"refusal_sft": {"n_refusal": 90000}}]}}},
        "study.lineups.a[0].refusal_sft: refusal_sft of role refusal, side defender: 90000 "
        "distinct rows asked for, the pool has 5964; ask for at most 5964",
    ),
    "no room for an answer": (
        {"generation": {"max_new_tokens": 40000}},
        "study.evaluation[0]: 28 tokens of a prompt and 40000 of an answer do not fit into the "
        "32768 of model 'base'; lower generation.max_new_tokens, or take a model with more context",
    ),
    "a model of which nothing is known": (
        {"models": {"base": {"path": f"some/model@{COMMIT}", "format": "plain"}}},
        f"study.models.base.path: some/model@{COMMIT} is not on this machine, and no shape of it "
        "is known; fetch it, or name one of ",
    ),
    "a folder that is gone": (
        {"models": {"base": {"path": "/no/such/model", "format": "plain"}}},
        "study.models.base.path: no such model folder: /no/such/model; give a folder, world:base "
        "or org/name@COMMIT",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_impossible_is_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, line = REFUSED[name]
    path = tmp_path / "paper.json"
    path.write_text(json.dumps(study(**changes)))
    assert run(["plan", str(path), "--estimate", "--store", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"holdfast: {line}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--estimate", "--card", "80"], "--card: no card '80'; did you mean '80gb'?"),
        (
            ["--estimate", "--efficiency", "1.5"],
            "--efficiency: got 1.5; give a share above 0, at most 1",
        ),
        (
            ["--estimate", "--seeds", "99"],
            "--seeds: the study has no seed 99; its seeds: 0",
        ),
        (["--card", "80gb"], "--card: belongs to an estimate; add --estimate"),
        (["--efficiency", "0.5"], "--efficiency: belongs to an estimate; add --estimate"),
    ],
)
def test_options_that_make_no_sense_get_one_line(
    options: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "paper.json"
    path.write_text(json.dumps(study()))
    assert run(["plan", str(path), *options, "--store", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err == f"holdfast: {line}\n"


# ---- what fits


def step(loop: Loop, longest: int = 886, copies: int = 1) -> Step:
    of = known_shape("Qwen/Qwen3-8B-Base")
    assert of is not None
    return Step(of, loop, copies, 0, 2, Lengths(longest / 2, longest / 2, longest, longest // 2))


def test_a_smaller_micro_batch_is_advised_before_an_adapter() -> None:
    assert advice(step(Loop(batch=8)), CARDS["141gb"]) == "bf16_kahan, micro_batch 1"
    long = step(Loop(batch=8), longest=3000)
    assert advice(long, CARDS["141gb"]) == ("bf16_kahan, micro_batch 1, checkpoint_activations")


@pytest.mark.parametrize("longest", [886, 3000, 20000, 2_000_000])
def test_a_micro_batch_that_would_change_the_updates_is_never_advised(longest: int) -> None:
    whole = replace(step(Loop(batch=8), longest=longest), separable=False)
    found = [advice(whole, card) for card in CARDS.values()]
    assert all(one is None or "micro_batch" not in one for one in found)
    if found == [None, None]:
        with pytest.raises(ModelError) as caught:
            check_fits(whole, "x")
        assert "not even with an adapter alone; use a smaller model" in str(caught.value)


def test_the_help_names_the_methods_whose_updates_a_micro_batch_changes() -> None:
    told = inspect.getsource(Loop)
    named = re.search(r"`separable` is false: ([^)]*)\)", told)
    assert named is not None
    classes = {name: registry.find("defence", name) for name in registry.names("defence")}
    assert set(named[1].replace("\n", " ").replace(" ", "").split(",")) == {
        name for name, one in classes.items() if not getattr(one, "separable", True)
    }


def test_an_adapter_makes_the_model_its_own_teacher() -> None:
    own = step(Loop(batch=1, precision="bf16_stochastic", lora=LoRA()), copies=0)
    other = step(Loop(batch=1, precision="bf16_stochastic"))
    adapted = other.loop.with_(lora=LoRA())
    assert sum(other.bytes(adapted).values()) == sum(own.bytes().values())


def test_what_fits_no_card_is_refused() -> None:
    huge = step(Loop(batch=1), longest=2_000_000)
    with pytest.raises(ModelError) as error:
        check_fits(huge, "sgt on base: memory")
    assert str(error.value).startswith("sgt on base: memory: about ")
    assert str(error.value).endswith(
        " GiB needed, and under no precision does it fit into one card of 141 GB, not even with "
        "an adapter alone and micro_batch 1; use a smaller model or shorter rows"
    )


# ---- how long


MEASURED = [
    ({"precision": "bf16_kahan"}, 1.53),
    ({"precision": "bf16_stochastic"}, 1.45),
    ({"precision": "bf16_pure", "lora": LoRA()}, 0.75),
]
"""Seconds of a stage-2 step of 2 + 2 rows on an H200 (LOG.md, 2026-11-26)."""


@pytest.mark.parametrize(("fields", "seconds"), MEASURED)
def test_the_time_of_an_8b_step_is_what_was_measured(
    fields: dict[str, Any], seconds: float
) -> None:
    of = known_shape("Qwen/Qwen3-8B-Base")
    assert of is not None
    method = SGT(loop=Loop(batch=2, micro_batch=1, **fields))
    rows = {"refusal": Rows(2, 500, 386), "benign": Rows(2, 500, 386)}
    each = method.effort(rows, of.blocks)
    tokens = sum(some.tokens for some in rows.values())
    lengths = Lengths(0.0, 0.0, 886, 386)
    own = Step(of, method.loop, method.copies(), 0, 2, lengths)
    training = Training(method.effort_before(rows, of.blocks) * 0, each, tokens, own)
    assert seconds / 2 < training.seconds(1, card("141gb")) < seconds * 2


def test_another_efficiency_is_taken_at_its_word() -> None:
    of = known_shape("Qwen/Qwen3-8B-Base")
    assert of is not None
    method = RefusalSFT(loop=Loop(precision="bf16_kahan", batch=64))
    rows = {"refusal": Rows(64, 400, 100), "benign": Rows(64, 400, 100)}
    own = Step(of, method.loop, 0, 0, 2, Lengths(0.0, 0.0, 500, 100))
    training = Training(
        method.effort_before(rows, of.blocks), method.effort(rows, of.blocks), 64000, own
    )
    slow, fast = (training.seconds(1, card("80gb", share)) for share in (0.1, 0.2))
    settled = 500 * of.weights / CARDS["80gb"].bandwidth
    assert slow - settled == pytest.approx(2 * (fast - settled))


def test_answers_read_the_weights_once_a_token_of_a_batch() -> None:
    of = memory.shape(resolve("world:base"))
    on = card("80gb")
    one = answering(of, Rows(8, 10, 40), 4, 8, on)
    two = answering(of, Rows(16, 10, 40), 4, 8, on)
    assert two == pytest.approx(2 * one)
    assert answering(of, Rows(16, 10, 40), 4, 16, on) < 1.1 * one


def test_no_such_card_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^--card: no card 'tpu'; "):
        card("tpu")


# ---- what sources declare


@pytest.mark.parametrize("name", registry.names("source"))
def test_a_published_source_declares_rows_of_the_sets_it_has(name: str) -> None:
    cls = registry.find("source", name)
    if not issubclass(cls, Published):
        return
    source = cls.model_validate({"subset": "standard"} if name == "harmbench" else {})
    declared = source.declared()
    assert {told.asked_in for told in declared.rows} - {""} <= {one.name for one in source.sets()}
    published = sum(split.rows for split in source.splits())
    own = [told for told in declared.rows if not told.paired]
    assert 0 < sum(told.rows for told in own if not told.guess) <= published or all(
        told.guess for told in own
    )
    assert not source.at_hand()


def test_one_refusal_for_all_makes_pairs(tmp_path: Path) -> None:
    data = study(
        sources=[{"beavertails": {"refusal": "I cannot help."}}, "alpaca"],
        lineups={"b": {"start": "base", "defences": [{"booster": {"loop": {"batch": 1}}}]}},
        evaluation=[{"set": "beavertails", "n": 100}],
    )
    found = estimated(data, tmp_path)
    assert found.lines["defend"].number == 1
    assert found.fits["booster on base"][1]["80gb"] != "as written"


def test_rows_that_are_here_are_taken_as_they_are(tmp_path: Path) -> None:
    data = study(
        models={"base": {"path": "world:base", "format": "plain"}},
        sources=["world"],
        lineups={"a": {"start": "base", "defences": [{"refusal_sft": {"loop": {"steps": 2}}}]}},
        evaluation=[{"set": "restricted", "n": 4}],
        judges=["world_guard"],
        generation={"max_new_tokens": 48},
    )
    found = estimated(data, tmp_path, "cpu")
    assert found.unchecked == []
    assert found.lines["defend"].number == 1
