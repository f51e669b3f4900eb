"""What trains is trained in one way: an attack takes what a defence takes, hooks and loop alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_hardening import Stop, stopping

from holdfast import nn
from holdfast.api import (
    CustomerJob,
    FineTuning,
    Loop,
    LoRA,
    LossDefence,
    Term,
    TrainedAttack,
    registry,
)
from holdfast.attacks.harmful_sft import HarmfulSFT
from holdfast.data.example import Role, Side, example
from holdfast.data.tokens import Encoder
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.errors import ConfigError, DataError
from holdfast.testing import tiny
from holdfast.train import attack, harden, learning_rate

FIELDS: dict[str, dict[str, Any]] = {
    "harmful_sft": {},
    "adaptive_trigger": {"gamma": 0.5, "stage_a": {"steps": 2, "batch": 2, "lr": 0.05}},
}
"""Every attack that trains, found below, with what makes it short."""


def test_every_attack_that_trains_is_tried_here() -> None:
    found = {name: registry.find("attack", name) for name in registry.names("attack")}
    own = {name: kind for name, kind in found.items() if not issubclass(kind, CustomerJob)}
    assert {name for name, kind in own.items() if issubclass(kind, TrainedAttack)} == set(FIELDS)


EACH = pytest.mark.parametrize("name", FIELDS)
ADAPTED = pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
POINTS = (4, 8, 12)


def made(name: str, **loop: Any) -> Any:
    given = {"batch": 4, "lr": 0.01, "eps": 1e-4, "checkpoint_every": 1} | loop
    fields = {"loop": given, "evaluate_at": list(POINTS)} | FIELDS[name]
    return registry.make("attack", {name: fields}, "test")


def attacked(
    method: Any, points: tuple[int, ...] = POINTS, *, work: Path | None = None, progress: Any = None
) -> tuple[dict[float, Any], Any]:
    """Give logits, steps and FLOPs at each budget, and the model."""
    model = tiny.model("llama")
    found: dict[float, Any] = {}
    ids = tiny.encoder().prompts(tiny.rows()[Role.HARMFUL][:2]).ids

    def look(point: float, info: Any) -> None:
        with torch.no_grad():
            found[point] = (model(input_ids=ids).logits.clone(), info.steps, info.flops)

    attack(
        method, model, tiny.encoder(), tiny.pool(), seed=0, points=list(points), on_point=look,
        work=work, progress=progress,
    )  # fmt: skip
    return found, model


def agree(first: Any, second: Any, *, flops: bool = True) -> None:
    """Hold two attacks together up to what rounding does to AdamW's steps, far below 0.01."""
    assert first.keys() == second.keys()
    for point, (logits, *spent) in first.items():
        assert (logits - second[point][0]).abs().max().item() < 2e-3, point
        assert spent[: 1 + flops] == pytest.approx(second[point][1 : 2 + flops])


# ---- every field of the loop, under an attack


@EACH
@ADAPTED
def test_micro_batches_and_how_passes_are_run_change_an_attack_by_rounding(
    name: str, lora: Any
) -> None:
    whole, model = attacked(made(name, lora=lora))
    assert not tiny.same(tiny.weights(model), tiny.weights(tiny.model("llama")))
    agree(whole, attacked(made(name, lora=lora, packing=False))[0])
    agree(whole, attacked(made(name, lora=lora, checkpoint_activations=True))[0])
    split = attacked(made(name, lora=lora, micro_batch=1))[0]
    agree(whole, split, flops=False)  # counting the step's tokens takes passes of its own
    assert split[4][1] == 1


@EACH
def test_every_other_field_reaches_the_step(name: str) -> None:
    plain = attacked(made(name))[0]
    for change in (
        {"clip": 1e-3},
        {"weight_decay": 0.5},
        {"beta1": 0.1},
        {"warmup": 2},
        {"train_embeddings": False},
        {"precision": "bf16_stochastic"},
        {"lora": {"rank": 2, "targets": "attention"}},
    ):
        other = attacked(made(name, **change))[0]
        assert not torch.equal(other[12][0].float(), plain[12][0]), change
    assert torch.equal(attacked(made(name, batching="mixed"))[0][4][0], plain[4][0]) is False


@EACH
def test_what_is_not_trained_stays(name: str) -> None:
    before = tiny.weights(tiny.model("llama"))
    after = tiny.weights(attacked(made(name, train_embeddings=False))[1])
    still = {key for key in before if torch.equal(before[key], after[key])}
    assert still == {"model.embed_tokens.weight", "lm_head.weight"}


@EACH
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_attack_with_all_of_it_continues_to_the_same_bits(
    name: str, stop: int, tmp_path: Path
) -> None:
    method = made(
        name, lora={"rank": 2}, micro_batch=2, checkpoint_activations=True, schedule="cosine",
        warmup=1, steps=3,
    )  # fmt: skip
    whole = attacked(method)[0]
    with pytest.raises(Stop):
        attacked(method, work=tmp_path, progress=stopping(name, stop))
    again = attacked(method, work=tmp_path)[0]
    for point in POINTS:
        assert torch.equal(again[point][0], whole[point][0])
        assert again[point][1:] == whole[point][1:]


# ---- schedules and budgets


def rates(work: Path) -> list[float]:
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    return [line["lr"] for line in lines if line["part"] == "harmful_sft"]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_falling_rate_falls_over_its_own_length_whatever_is_asked_for(
    schedule: str, tmp_path: Path
) -> None:
    method = made("harmful_sft", schedule=schedule, steps=5)
    whole = attacked(method, work=tmp_path / "whole")[0]
    assert rates(tmp_path / "whole") == [learning_rate(method.loop, step) for step in range(3)]
    assert rates(tmp_path / "whole")[2] > 0
    for points in ((4,), (8,), (4, 12)):
        alone = attacked(method, points)[0]
        assert all(torch.equal(alone[point][0], whole[point][0]) for point in points)


def test_at_a_constant_rate_steps_change_nothing_and_are_no_part_of_the_identity() -> None:
    one, other = made("harmful_sft", steps=1), made("harmful_sft", steps=99)
    assert one.identity() == other.identity()
    assert "steps" not in one.identity()["fields"]["loop"]
    first, second = attacked(one)[0], attacked(other)[0]
    assert all(torch.equal(first[point][0], second[point][0]) for point in POINTS)
    falling = made("harmful_sft", schedule="linear", steps=5)
    assert falling.identity()["fields"]["loop"]["steps"] == 5
    assert falling.identity() != made("harmful_sft", schedule="linear", steps=6).identity()
    assert falling.identity() == falling.with_(evaluate_at=(4, 20)).identity()


@EACH
def test_an_attacks_identity_follows_every_other_field_of_its_loop(name: str) -> None:
    plain = str(made(name).identity())
    others = {
        "batch": 2, "micro_batch": 2, "batching": "mixed", "lr": 0.5, "schedule": "linear",
        "warmup": 1, "weight_decay": 0.5, "beta1": 0.5, "beta2": 0.5, "eps": 0.5, "clip": 2.0,
        "precision": "bf16_pure", "lora": {"rank": 2}, "train_embeddings": False, "packing": False,
        "decay_norms": False,
        "checkpoint_activations": True, "compile_layers": True,
    }  # fmt: skip
    assert {*others, "steps", "checkpoint_every"} == set(Loop.model_fields)
    for field, value in others.items():
        assert str(made(name, **{field: value}).identity()) != plain, field
    assert str(made(name, checkpoint_every=9).identity()) == plain


@EACH
def test_a_budget_beyond_a_falling_schedule_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(name, schedule="cosine", steps=2)
    assert str(caught.value) == (
        f"test.{name}.evaluate_at: 12 is beyond the cosine schedule's end at 8 examples (2 steps "
        "of 4); set loop.steps to 3 or more"
    )
    assert made(name, schedule="cosine", steps=3).points() == (4.0, 8.0, 12.0)


def test_points_beyond_a_falling_schedule_are_refused_in_python_too() -> None:
    with pytest.raises(ConfigError) as caught:
        attacked(made("harmful_sft", schedule="linear", steps=3), (4, 16))
    assert str(caught.value) == (
        "harmful_sft.loop.steps: the linear schedule ends after 3 steps, 4 are asked for; set it "
        "to 4 or more"
    )


def test_the_defaults_are_those_of_sgts_attack() -> None:
    loop = HarmfulSFT().loop
    assert loop == Loop(steps=250, batch=2, lr=1e-5, clip=None, weight_decay=0.01)
    assert HarmfulSFT().step_of(max(HarmfulSFT().points())) == loop.steps


# ---- hooks


SEEN: list[Any] = []


class Watched:
    """Notes the hooks in the order they are called; `begin` keeps what is trained."""

    def adapt(self, model: Any) -> Any:
        SEEN.append("adapt")
        return super().adapt(model)  # type: ignore[misc]

    def setup(self, run: Any) -> Any:
        SEEN.append(("setup", any("lora_a" in n for n, _ in run.model.named_parameters())))
        return "made"

    def begin(self, run: Any, params: Mapping[str, Any], state: Any) -> Any:
        assert state == "made"
        own = {name for name, p in run.model.named_parameters() if p.requires_grad}
        assert set(params) == own
        SEEN.append(("begin", any("lora_a" in name for name in params)))
        return {name: p.detach().clone() for name, p in params.items()}

    def on_step(self, step: int, state: Any) -> None:
        SEEN.append(step)

    def loss(self, model: Any, batch: Any, state: Any) -> Any:
        pulls = [(p - state[n]).square().sum() for n, p in nn.trainable(model).items()]
        value, count = nn.nll(model, batch[Role.HARMFUL])
        pull = Term(torch.stack(pulls).sum(), 1.0, 0.1, once=True)
        return {"harmful": Term(value, count, 1.0, "tokens"), "pull": pull}


class Tied(Watched, HarmfulSFT):
    """An attack that stays near where it began."""


class Held(Watched, LossDefence):
    """A defence that does the same."""

    roles = ("harmful",)
    loop: Loop = Loop(steps=2, batch=2, micro_batch=1, lr=0.01)

    def rows(self, pool: Any, seed: int) -> Any:
        return {Role.HARMFUL: pool.draw(Role.HARMFUL, Side.DEFENDER, None, seed)}


@ADAPTED
def test_begin_sees_what_is_trained_and_gives_the_state(lora: Any) -> None:
    loop = {"batch": 2, "micro_batch": 1, "lr": 0.01, "lora": lora}
    ways = (
        lambda: attacked(Tied.model_validate({"loop": loop, "evaluate_at": [4]}), (4,)),
        lambda: harden(
            Held.model_validate({"loop": loop | {"steps": 2}}), tiny.model(), tiny.encoder(),
            tiny.pool(), seed=0,
        ),
    )  # fmt: skip
    for way in ways:
        SEEN.clear()
        way()
        assert ["adapt", ("setup", False), ("begin", lora is not None), 0, 1] == SEEN


def test_begin_comes_again_before_a_run_continues_with_the_weights_of_the_start(
    tmp_path: Path,
) -> None:
    method = Tied.model_validate(
        {
            "loop": {"batch": 2, "lr": 0.01, "lora": {"rank": 2}, "checkpoint_every": 1},
            "evaluate_at": [4, 8],
        }
    )
    whole = attacked(method, (4, 8))[0]
    with pytest.raises(Stop):
        attacked(method, (4, 8), work=tmp_path, progress=stopping(method.name(), 3))
    again = attacked(method, (8,), work=tmp_path)[0]
    assert torch.equal(again[8][0], whole[8][0])
    assert again[8][1:] == whole[8][1:]


class Whole(FineTuning):
    """Malicious fine-tuning that gives the step's gradient itself."""

    def rows(self, pool: Any, seed: int) -> Any:
        return HarmfulSFT(distinct=self.distinct).rows(pool, seed)

    def gradient(self, model: Any, step: Any, state: Any) -> Any:
        return nn.mean_gradient(model, step[Role.HARMFUL], "harmful")


@ADAPTED
def test_an_attack_may_give_the_gradient_of_a_step(lora: Any) -> None:
    fields = {"loop": {"batch": 4, "micro_batch": 2, "lr": 0.01, "lora": lora}}
    fields["evaluate_at"] = [4, 8, 12]  # type: ignore[assignment]
    ours = attacked(Whole.model_validate(fields))[0]
    theirs = attacked(HarmfulSFT.model_validate(fields))[0]
    agree(ours, theirs, flops=False)


class Empty(FineTuning):
    """Writes neither."""

    def rows(self, pool: Any, seed: int) -> Any:
        return HarmfulSFT().rows(pool, seed)


def test_a_step_that_cannot_be_is_refused_in_one_line() -> None:
    name = Whole.name()
    with pytest.raises(ConfigError) as caught:
        attacked(Empty(), (100,))
    assert str(caught.value) == f"{name}: has no loss and no gradient; write one of the two"
    with pytest.raises(ConfigError) as caught:
        attacked(Whole.model_validate({"loop": {"batching": "mixed"}}), (100,))
    assert str(caught.value) == (
        f"{name}.loop.batching: mixed, but it needs rows of each role in every step; "
        "use batching: stratified"
    )


def test_a_field_of_the_loop_beside_it_is_told_where_it_belongs() -> None:
    with pytest.raises(ConfigError) as caught:
        HarmfulSFT.model_validate({"batch_size": 4, "lora": LoRA(rank=2).model_dump()})
    assert str(caught.value) == (
        "batch_size: is a field of the loop; write loop: {batch: 4, lora: {rank: 2, alpha: 16.0, "
        "targets: all, through: 1.0}}"
    )


# ---- rows longer than the context


@pytest.mark.parametrize("method", [HarmfulSFT(), RefusalSFT()], ids=["attack", "defence"])
def test_a_row_longer_than_the_context_is_refused_before_the_first_step(method: Any) -> None:
    rows = [row for some in method.rows(tiny.pool(), 0).values() for row in some]
    limit = max(len(tiny.encoder().encode(row.prompt, row.response).ids) for row in rows) - 1
    coder = Encoder(tiny.byte_tokenizer(), "plain", max_length=limit, where="here")

    def never(*_: Any) -> None:
        raise AssertionError

    given: dict[str, Any] = {"seed": 0, "progress": never}
    run: Any = harden
    if isinstance(method, HarmfulSFT):
        run, given = attack, given | {"points": [100], "on_point": never}
    line = rf"^here: row [0-9a-f]+: {limit + 1} tokens, the model's context is {limit}; shorten or "
    with pytest.raises(DataError, match=line):
        run(method, tiny.model(), coder, tiny.pool(), **given)


def test_only_rows_that_could_be_too_long_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    coder = Encoder(tiny.byte_tokenizer(), "plain", max_length=120, where="here")
    seen: list[str] = []
    inner = coder.encode

    def encode(prompt: str, *rest: Any, **more: Any) -> Any:
        seen.append(prompt)
        return inner(prompt, *rest, **more)

    monkeypatch.setattr(coder, "encode", encode)
    short, long = (example("ask" * n, "tell", role=Role.BENIGN) for n in (1, 30))
    coder.check([short, long, example("ask", None, role=Role.BENIGN, system="be kind")])
    assert seen == [long.prompt, "ask"]
    with pytest.raises(DataError, match=r"^here: row [0-9a-f]+: \d+ tokens, the model's"):
        coder.check([short, example("?" * 150, None, role=Role.BENIGN)])
