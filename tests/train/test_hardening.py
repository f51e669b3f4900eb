"""Hardening and attacking whole models: resumption to the bit, costs, and what is left behind."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import Loop, LoRA, LossDefence
from holdfast.attacks.harmful_sft import HarmfulSFT
from holdfast.attacks.strip import Strip
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.defences.booster import Booster
from holdfast.defences.lox import LoX
from holdfast.defences.refusal_sft import RefusalSFT
from holdfast.defences.sgt import SGT
from holdfast.errors import ConfigError, DataError, ModelError, TrainingError
from holdfast.testing import tiny
from holdfast.train import Hardened, PointInfo, attack, harden

LOOP = Loop(steps=8, batch=3, lr=0.01, schedule="linear", checkpoint_every=3)
DEFENCES: dict[str, Any] = {
    "refusal_sft": RefusalSFT(loop=LOOP),
    "refusal_sft lora": RefusalSFT(loop=LOOP.with_(lora=LoRA(rank=2))),
    "sgt": SGT(stage1=LOOP, loop=LOOP),
    "booster": Booster(loop=LOOP),
}


class Stop(KeyboardInterrupt):
    """An interruption."""


def stopping(part: str, step: int) -> Callable[[str, int, int], None]:
    """Interrupt after a step of a part, before its checkpoint is written."""

    def progress(name: str, done: int, _of: int) -> None:
        if (name, done) == (part, step):
            raise Stop

    return progress


def run(defence: Any, work: Path, progress: Any = None) -> tuple[Any, Hardened]:
    model = tiny.model()
    done = harden(defence, model, tiny.encoder(), tiny.pool(), seed=0, work=work, progress=progress)
    return model, done


def log(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("refusal_sft", [("refusal_sft", 2), ("refusal_sft", 5)]),
        ("refusal_sft lora", [("refusal_sft", 4)]),
        ("booster", [("booster", 4)]),
        ("sgt", [("trigger", 2), ("trigger", 5)]),
        ("sgt", [("sgt", 1), ("sgt", 7)]),
        ("sgt", [("trigger", 7), ("sgt", 4)]),
    ],
)
def test_an_interrupted_hardening_ends_at_the_same_bits(
    tmp_path: Path, name: str, stops: list[tuple[str, int]]
) -> None:
    defence = DEFENCES[name]
    whole, first = run(defence, tmp_path / "whole")
    for stop in stops:
        with pytest.raises(Stop):
            run(defence, tmp_path / "broken", stopping(*stop))
    broken, second = run(defence, tmp_path / "broken")
    assert tiny.same(tiny.weights(broken), tiny.weights(whole))
    assert tiny.same(second.state, first.state)
    assert second.flops == first.flops
    assert second.diagnostics == first.diagnostics
    assert log(tmp_path / "broken") == log(tmp_path / "whole")
    steps = [(line["part"], line["step"]) for line in log(tmp_path / "broken") if "step" in line]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("name", DEFENCES)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    name: str, tmp_path: Path
) -> None:
    first, second = (run(DEFENCES[name], tmp_path / str(i))[0] for i in range(2))
    assert tiny.same(tiny.weights(first), tiny.weights(second))
    other = tiny.model()
    harden(DEFENCES[name], other, tiny.encoder(), tiny.pool(), seed=1)
    assert not tiny.same(tiny.weights(other), tiny.weights(first))


def test_what_a_run_of_sgt_gives_besides_the_model(tmp_path: Path) -> None:
    model, done = run(DEFENCES["sgt"], tmp_path)
    assert done.model is model
    assert done.steps == 8
    assert done.state["trigger"].shape == (4, 16)
    assert not done.state["trigger"].requires_grad
    assert all(isinstance(value, float) for value in done.diagnostics.values())
    stages = {line["part"] for line in log(tmp_path)}
    assert stages == {"trigger", "sgt"}
    assert log(tmp_path)[-1]["flops"] == done.flops


def test_flops_of_refusal_sft_worked_by_hand() -> None:
    """Three passes' worth a step: the blocks on every real token, the head on the labelled."""
    defence = RefusalSFT(loop=Loop(steps=2, batch=6, micro_batch=2))
    model, encoder, pool = tiny.model(), tiny.encoder(), tiny.pool(6)
    inside = sum(p.numel() for p in model.model.layers.parameters())
    tokens = labels = 0
    for role in (Role.REFUSAL, Role.BENIGN):
        for row in pool.draw(role, Side.DEFENDER, None, 0):
            coded = encoder.encode(row.prompt, row.response)
            tokens += len(coded.ids)
            labels += len(coded.ids) - coded.start
    done = harden(defence, model, encoder, pool, seed=0)
    assert done.flops == 2 * 3 * 2.0 * (inside * tokens + 16 * tiny.VOCABULARY * labels)


def test_training_lowers_its_loss(tmp_path: Path) -> None:
    for name, defence in DEFENCES.items():
        long = defence.with_(loop=defence.loop.with_(steps=25, schedule="constant"))
        run(long, tmp_path / name)
        losses = [
            one["loss"]
            for one in log(tmp_path / name)
            if one["part"] == defence.name() and "step" in one
        ]
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), name


def test_stage_1_leaves_the_model_alone_and_lowers_the_refusals_loss(tmp_path: Path) -> None:
    stage1 = LOOP.with_(steps=40, lr=0.1, schedule="constant")
    method = SGT(stage1=stage1, loop=LOOP.with_(steps=1, lr=1e-60))
    before = tiny.weights(tiny.model())
    model, _ = run(method, tmp_path)
    assert tiny.same(tiny.weights(model), before)
    values = [
        one["refusal_mean"] for one in log(tmp_path) if one["part"] == "trigger" and "step" in one
    ]
    assert sum(values[-5:]) < sum(values[:5])


@pytest.mark.parametrize("name", DEFENCES)
def test_everything_but_the_weights_is_left_as_found(name: str, tmp_path: Path) -> None:
    model = tiny.model("llama")
    model.lm_head.weight.requires_grad_(False)
    wanted = {key: p.requires_grad for key, p in model.named_parameters()}
    for progress in (None, stopping(DEFENCES[name].name(), 2)):
        with contextlib.suppress(Stop):
            harden(DEFENCES[name], model, tiny.encoder(), tiny.pool(), seed=0, progress=progress)
        assert {key: p.requires_grad for key, p in model.named_parameters()} == wanted
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert all(p.grad is None for p in model.parameters())
        assert not model.training


def test_frozen_embeddings_do_not_move() -> None:
    model = tiny.model("llama")
    before = tiny.weights(model)
    harden(
        RefusalSFT(loop=LOOP.with_(train_embeddings=False)),
        model,
        tiny.encoder(),
        tiny.pool(),
        seed=0,
    )
    after = tiny.weights(model)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize("precision", ["fp32_master", "bf16_pure"])
def test_lower_precisions_train_and_keep_their_dtype(precision: Any, tmp_path: Path) -> None:
    """Pure bf16 swallows small updates; a large rate shows that it runs at all."""
    for name in ("refusal_sft", "sgt"):
        defence = DEFENCES[name]
        changed = defence.with_(loop=defence.loop.with_(precision=precision))
        model, done = run(changed, tmp_path / name)
        wanted = torch.bfloat16 if precision == "bf16_pure" else torch.float32
        assert {p.dtype for p in model.parameters()} == {wanted}
        assert done.flops > 0


def test_a_loss_that_is_not_finite_names_the_step() -> None:
    model = tiny.model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"^refusal_sft step 1: the loss is nan, .*; lower lr"):
        harden(RefusalSFT(loop=LOOP), model, tiny.encoder(), tiny.pool(), seed=0)


# ---- shapes and roles


class Greedy(LossDefence):
    """Declares fewer roles than it reads."""

    roles = ("refusal",)

    def rows(self, pool: Pool, seed: int) -> Any:
        """Draw one role too many."""
        return {
            role: pool.draw(role, Side.DEFENDER, None, seed) for role in (Role.REFUSAL, Role.BENIGN)
        }


def test_undeclared_roles_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        harden(Greedy(), tiny.model(), tiny.encoder(), tiny.pool(), seed=0)
    assert str(caught.value) == (
        f"{Greedy.name()}: reads roles ['benign', 'refusal'], declares ['refusal']; "
        "make `roles` and `rows` agree"
    )


def test_more_rows_than_the_pool_has_are_refused() -> None:
    with pytest.raises(DataError, match=r"^refusal_sft of role refusal, side defender: 7 distinct"):
        harden(RefusalSFT(n_refusal=7), tiny.model(), tiny.encoder(), tiny.pool(6), seed=0)


def test_lox_needs_the_original() -> None:
    with pytest.raises(ModelError) as caught:
        harden(LoX(), tiny.model(), tiny.encoder(), tiny.pool(), seed=0)
    assert str(caught.value) == "lox: needs the 'original' model; name it in the study"


def test_lox_after_refusal_sft_moves_further_the_same_way() -> None:
    model = tiny.model("llama")
    original = tiny.weights(model)
    harden(DEFENCES["refusal_sft"], model, tiny.encoder(), tiny.pool(), seed=0)
    aligned = tiny.weights(model)
    done = harden(
        LoX(rank=None, coefficient=0.5),
        model,
        tiny.encoder(),
        tiny.pool(),
        seed=0,
        sources={"original": original},
    )
    for name, tensor in tiny.weights(model).items():
        expected = aligned[name] + 0.5 * (tensor.ndim > 1) * (aligned[name] - original[name])
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)
    assert done.steps == 0
    assert done.flops == 0.0


# ---- attacks


def attacked(
    method: Any, points: list[float], work: Path | None = None, progress: Any = None, **sources: Any
) -> tuple[Any, dict[float, tuple[dict[str, torch.Tensor], PointInfo]]]:
    model = tiny.model("llama")
    seen: dict[float, Any] = {}

    def on_point(point: float, info: PointInfo) -> None:
        assert not model.training
        torch.rand(7)  # a measurement may draw
        ids = torch.tensor([[5, 6, 7]])
        with torch.no_grad():
            seen[point] = ({"logits": model(ids).logits} | tiny.weights(model), info)

    attack(
        method,
        model,
        tiny.encoder(),
        tiny.pool(),
        seed=0,
        points=points,
        on_point=on_point,
        work=work,
        progress=progress,
        sources=sources,
    )
    return model, seen


PLAIN = HarmfulSFT().loop.with_(lr=0.01, checkpoint_every=3)
SFT = HarmfulSFT(loop=PLAIN, evaluate_at=(4, 10, 16))


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_one_trajectory_serves_every_budget(lora: Any) -> None:
    method = SFT.with_(loop=PLAIN.with_(lora=lora))
    _, whole = attacked(method, [4, 10, 16])
    assert [info.steps for _, info in whole.values()] == [2, 5, 8]
    assert len({info.flops for _, info in whole.values()}) == 3
    for point in (4, 10, 16):
        _, alone = attacked(method, [point])
        assert tiny.same(alone[point][0], whole[point][0])
        assert alone[point][1] == whole[point][1]


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
@pytest.mark.parametrize("stop", [1, 2, 4, 5, 7, 8])
def test_an_interrupted_attack_gives_every_point_the_same_bits(
    tmp_path: Path, stop: int, lora: Any
) -> None:
    method = SFT.with_(loop=PLAIN.with_(lora=lora))
    _, whole = attacked(method, [4, 10, 16])
    with pytest.raises(Stop):
        attacked(method, [4, 10, 16], tmp_path, stopping("harmful_sft", stop))
    for points in ([4, 10, 16], [10, 16], [16], [4]):
        _, again = attacked(method, points, tmp_path)
        assert list(again) == points
        for point in points:
            assert tiny.same(again[point][0], whole[point][0])
            assert again[point][1] == whole[point][1]


@pytest.mark.parametrize("precision", ["fp32", "bf16_pure"])
def test_an_adapter_is_measured_as_it_would_be_saved(precision: Any) -> None:
    """Not the adapter in fp32 beside weights in bf16: what nobody could publish."""
    lora = LoRA(rank=2, alpha=64.0)
    method = SFT.with_(loop=PLAIN.with_(lora=lora, precision=precision, lr=0.1))
    model, seen = attacked(method, [4, 16])
    last = {name: value for name, value in seen[16][0].items() if name != "logits"}
    assert tiny.same(last, tiny.weights(model))  # which ends merged
    with torch.no_grad():
        assert torch.equal(seen[16][0]["logits"], model(torch.tensor([[5, 6, 7]])).logits)
    assert not tiny.same(last, {name: seen[4][0][name] for name in last})


def test_an_attack_continues_after_the_points_that_are_done(tmp_path: Path) -> None:
    """Interrupted at step 7 with a checkpoint at 6: only steps 7 and 8 are run again."""
    with pytest.raises(Stop):
        attacked(SFT, [4, 10, 16], tmp_path, stopping("harmful_sft", 7))
    steps: list[int] = []
    attacked(SFT, [16], tmp_path, lambda _name, done, _of: steps.append(done))
    assert steps == [7, 8]


def test_an_attack_sees_only_the_attackers_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SFT.rows(tiny.pool(), 0)
    assert set(rows) == {Role.HARMFUL}
    assert {row.side for row in rows[Role.HARMFUL]} == {Side.ATTACKER}
    few = SFT.with_(distinct=2).rows(tiny.pool(), 0)[Role.HARMFUL]
    assert few == rows[Role.HARMFUL][:2]


def test_an_attack_is_plain_fine_tuning() -> None:
    """Two steps of it by hand, with Hugging Face's loss and torch's AdamW."""
    method = HarmfulSFT(loop=PLAIN.with_(batch=6), evaluate_at=(12,))
    model, _ = attacked(method, [12])
    twin, encoder = tiny.model("llama"), tiny.encoder()
    rows = method.rows(tiny.pool(), 0)[Role.HARMFUL]
    assert len(rows) == 6  # one step is one epoch, so the order does not matter
    optimiser = torch.optim.AdamW(twin.parameters(), lr=0.01, weight_decay=0.01)
    tokens = encoder.batch(rows)
    for _ in range(2):
        optimiser.zero_grad()
        logits = twin(tokens.ids, attention_mask=tokens.mask).logits[:, :-1]
        labels = tokens.labels[:, 1:]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        optimiser.step()
    for name, tensor in tiny.weights(twin).items():
        torch.testing.assert_close(tiny.weights(model)[name], tensor, atol=2e-5, rtol=1e-4)


def test_strip_walks_to_the_original_and_back() -> None:
    original = {k: v + 0.1 for k, v in tiny.weights(tiny.model("llama")).items()}
    start = tiny.weights(tiny.model("llama"))
    model, seen = attacked(Strip(), [0.25, 0.5, 1.0], original=original)
    assert tiny.same(tiny.weights(model), start)
    for name, tensor in start.items():
        for t in (0.25, 0.5):  # each from the start, not from the last point
            torch.testing.assert_close(
                seen[t][0][name], (1 - t) * tensor + t * original[name], atol=1e-6, rtol=1e-5
            )
        assert torch.equal(seen[1.0][0][name], original[name])
    assert {info for _, info in seen.values()} == {PointInfo(0, 0.0)}


def test_strip_needs_an_original_of_the_same_architecture() -> None:
    with pytest.raises(ModelError) as caught:
        attacked(Strip(), [1.0])
    assert str(caught.value) == "strip: needs the 'original' model; name it in the study"
    other = nn.tensors(tiny.model("llama", hidden_size=32))
    with pytest.raises(ModelError, match=r"^strip: the original has no '.*' of this shape; name "):
        attacked(Strip(), [1.0], original=other)


def test_points_and_labels_of_an_attack() -> None:
    method = HarmfulSFT(
        loop=PLAIN.with_(lr=1e-3, batch=4, lora=LoRA(rank=4)), evaluate_at=(40, 8, 8)
    )
    assert method.points() == (8.0, 40.0)
    assert method.label() == "lr=0.001 lora=4"
    assert [method.step_of(point) for point in method.points()] == [2, 10]
    assert method.trajectory() == method.with_(evaluate_at=(400,)).trajectory()
    assert method.trajectory() != method.with_(loop=method.loop.with_(lr=2e-3)).trajectory()
    assert Strip(evaluate_at=(1.0, 0.0, 0.5)).points() == (0.5, 1.0)


def test_a_budget_that_is_no_whole_step_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        HarmfulSFT(loop=PLAIN.with_(batch=4), evaluate_at=(10,))
    assert str(caught.value) == (
        "evaluate_at: 10 is no multiple of loop.batch 4; use whole optimiser steps"
    )
