"""Adaptive KL: what it equals, what may not change it, what it does when a scorer fails."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast import nn
from holdfast.api import Loop, Run, registry
from holdfast.data.example import Role
from holdfast.defences.adaptive_kl.smoothing import Smoother
from holdfast.errors import ConfigError, StoreError
from holdfast.testing import tiny
from holdfast.train import tune

LOOP = Loop(steps=3, batch=4, lr=0.01).model_dump()
OFF = {"kind": "constant", "low": 0.0, "high": 0.0}


def made(name: str = "adaptive_kl", **fields: Any) -> Any:
    return registry.make("defence", {name: {"loop": LOOP, **fields}}, "test")


def table(path: Path, risks: list[Any]) -> str:
    rows = tiny.customer()
    lines = [{"row_id": r.row_id, "risk": s} for r, s in zip(rows, risks, strict=False)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def state_of(method: Any, model: Any, **more: Any) -> Any:
    run = Run(model, tiny.encoder(), tiny.pool(), 0, where=method.name(), **more)
    state = method.begin(run, nn.trainable(model), method.setup(run))
    method.admit(tiny.customer(), run, state)
    return state


def parts(rows: list[Any], size: int) -> list[Any]:
    return [
        {Role.TASK: tiny.encoder().batch(rows[i : i + size])} for i in range(0, len(rows), size)
    ]


def step(method: Any, model: Any, state: Any, some: list[Any]) -> Any:
    return nn.grad(
        nn.trainable(model),
        lambda part: method.loss(model, part, state),
        some,
        lambda part: method.counts(part, state),
    )


def moved() -> Any:
    model = tiny.model()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model


def test_without_a_leash_it_is_plain_fine_tuning_bit_for_bit() -> None:
    ends = []
    for method in (made(schedule=OFF), made("plain_tuning"), made("static_kl", strength=0.0)):
        model = tiny.model()
        tune(method, model, tiny.encoder(), tiny.customer(), tiny.pool(), seed=0)
        ends.append(tiny.weights(model))
    assert tiny.same(ends[0], ends[1])
    assert tiny.same(ends[2], ends[1])


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_with_nothing_but_the_leash_nothing_moves(lora: Any) -> None:
    schedule = {"kind": "constant", "low": 0.0, "high": 1.0}
    model = tiny.model()
    tune(
        made(schedule=schedule, loop=LOOP | {"lora": lora}),
        model, tiny.encoder(), tiny.customer(), tiny.pool(), seed=0,
    )  # fmt: skip
    assert tiny.same(tiny.weights(model), tiny.weights(tiny.model()))


def test_a_constant_schedule_is_static_kl() -> None:
    ends = []
    for method in (
        made(schedule={"kind": "constant", "high": 0.6}),
        made("static_kl", strength=0.6),
    ):
        model = tiny.model()
        tune(method, model, tiny.encoder(), tiny.customer(), tiny.pool(), seed=0)
        ends.append(tiny.weights(model))
    assert tiny.same(*ends)


def test_parts_padding_and_order_change_neither_loss_nor_gradient(tmp_path: Path) -> None:
    rows = tiny.customer()[:8]
    path = table(tmp_path / "t.jsonl", [0.0, 1.0, 0.3, 0.8, 0.5, 0.9, 0.1, 0.6])
    method = made(risk={"kind": "given", "path": path})
    start, model = tiny.model(), moved()
    state = state_of(method, start)
    whole, terms = step(method, model, state, parts(rows, 8))
    loss = sum(float(t.weight * t.sum) / t.count for t in terms.values() if t.count)
    for some in (parts(rows, 4), parts(rows, 2), parts(rows, 1), parts(rows[::-1], 8)):
        other, found = step(method, model, state, some)
        again = sum(float(t.weight * t.sum) / t.count for t in found.values() if t.count)
        assert again == pytest.approx(loss, rel=1e-5)
        for name, g in whole.items():
            torch.testing.assert_close(other[name], g, rtol=1e-4, atol=1e-5)
    with nn.Passes(False, False, False).on():
        padded, _ = step(method, model, state, parts(rows, 8))
    for name, g in whole.items():
        torch.testing.assert_close(padded[name], g, rtol=1e-4, atol=1e-5)


def test_each_row_is_held_by_its_own_risk(tmp_path: Path) -> None:
    """The step's loss is the float64 sum over rows of alpha CE + beta KL, over all tokens."""
    rows = tiny.customer()[:4]
    path = table(tmp_path / "t.jsonl", [0.0, 1.0, 0.5, 0.75])
    method = made(risk={"kind": "given", "path": path})
    start, model = tiny.model(), moved()
    state = state_of(method, start)
    with torch.no_grad():
        terms = method.loss(model, parts(rows, 4)[0], state)
    expected, tokens = 0.0, 0
    for row, beta in zip(tiny.encoder().batch(rows).rows, (0.1, 0.9, 1 / 3, 2 / 3), strict=True):
        ids, at = torch.tensor([row.ids]), slice(row.start - 1, len(row.ids) - 1)
        q, p = (m(ids).logits[0, at].detach().double().log_softmax(-1) for m in (model, start))
        own = torch.tensor(row.ids[row.start :])
        ce = -q[torch.arange(len(own)), own].sum()
        expected += float((1 - beta) * ce + beta * (p.exp() * (p - q)).sum())
        tokens += len(own)
    found = sum(float(t.weight * t.sum) / t.count for t in terms.values() if t.count)
    assert found == pytest.approx(expected / tokens, rel=1e-5)
    assert float(terms["beta"].sum) == pytest.approx(0.1 + 0.9 + 1 / 3 + 2 / 3)


def test_one_risky_row_among_eight_keeps_its_leash_where_a_mean_would_lose_it(
    tmp_path: Path,
) -> None:
    path = table(tmp_path / "t.jsonl", [1.0] + [0.0] * 11)
    for how, wanted in (("per_sample", 0.9 + 7 * 0.1), ("batch_mean", 0.8), ("batch_max", 7.2)):
        method = made(risk={"kind": "given", "path": path}, aggregation=how)
        model = tiny.model()
        terms = method.loss(model, parts(tiny.customer()[:8], 8)[0], state_of(method, model))
        assert float(terms["beta"].sum) == pytest.approx(wanted, rel=1e-5)


def test_a_row_that_no_scorer_knows_or_that_has_no_number_has_the_ceiling(tmp_path: Path) -> None:
    path = table(tmp_path / "t.jsonl", [0.0, None, float("nan"), 7.0])
    method = made(risk={"kind": "given", "path": path})
    model = tiny.model()
    state = state_of(method, model)
    terms = method.loss(model, parts(tiny.customer()[:6], 1)[0], state)
    assert float(terms["beta"].sum) == pytest.approx(0.1)
    for number in range(1, 6):
        terms = method.loss(model, parts(tiny.customer()[number : number + 1], 1)[0], state)
        assert float(terms["beta"].sum) == pytest.approx(0.9), number
    assert state.critic.failed == {"not in the table": 8, "no number from 0 to 1": 2}


def test_released_adds_the_kl_up_over_micro_batches_and_reads_the_first_rows_risk() -> None:
    """With rows of one length the KL weighs G times what it does when divided over the step."""
    rows = [tiny.customer()[0]] * 4
    loop = LOOP | {"micro_batch": 1}
    schedule = {"kind": "constant", "low": 0.0, "high": 0.6}
    start, model = tiny.model(), moved()
    found = {}
    for how in ("step", "micro_batch"):
        method = made(schedule=schedule, normalise=how, loop=loop)
        _, terms = step(method, model, state_of(method, start), parts(rows, 1))
        found[how] = {k: float(terms[k].sum) / terms[k].count for k in ("task", "kl")}
    assert found["micro_batch"]["kl"] == pytest.approx(4 * found["step"]["kl"], rel=1e-5)
    assert found["micro_batch"]["task"] == pytest.approx(found["step"]["task"], rel=1e-5)
    released = registry.make("defence", {"adaptive_kl": {"preset": "released"}}, "test")
    assert (released.aggregation, released.normalise) == ("first_row", "micro_batch")
    assert (released.risk.step, released.risk.ceiling, released.loop.micro_batch) == (0.5, 0.75, 1)
    paper = registry.make("defence", {"adaptive_kl": {"preset": "paper"}}, "test")
    assert (paper.schedule.kind, paper.aggregation, paper.loop.batch) == ("affine", "batch_mean", 8)


def test_auto_meets_its_recall_at_the_highest_threshold_and_says_what_clean_rows_pay() -> None:
    said: dict[str, Any] = {}
    method = made(schedule={"kind": "auto", "recall": 0.75, "leak": 0.2, "low": 0.0})
    state = state_of(method, tiny.model(), log=said.update)
    assert said["auto_recall"] >= 0.75
    assert said["auto_strength"] == pytest.approx(0.8)
    higher = state.settled.threshold + 1e-6
    assert said["auto_clean_beta"] == pytest.approx(0.8 * said["auto_false_positives"])
    at = torch.tensor([state.settled.threshold, higher, state.settled.threshold - 1e-3])
    assert state.settled.beta(at).tolist() == pytest.approx([0.8, 0.8, 0.0])


def test_all_rows_risky_is_warned_before_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = table(tmp_path / "t.jsonl", [1.0] * 12)
    method = made(risk={"kind": "given", "path": path})
    with caplog.at_level(logging.WARNING):
        tune(method, tiny.model(), tiny.encoder(), tiny.customer(), tiny.pool(), seed=0,
             work=tmp_path / "work")  # fmt: skip
    assert caplog.messages == [
        "adaptive_kl.risk: all rows are risky: the job is hostile, or its critic is wrong"
    ]
    lines = [json.loads(x) for x in (tmp_path / "work/log.jsonl").read_text().splitlines()]
    (told,) = [line for line in lines if "risk_histogram" in line]
    assert told["risk_histogram"] == [0] * 9 + [12]
    assert told["weight_removed"] == pytest.approx(0.9)
    assert "step" not in lines[lines.index(told)]
    assert lines.index(told) < next(i for i, line in enumerate(lines) if "loss" in line)


def test_the_smoothed_level_is_found_again_where_a_run_continues(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    one = Smoother(0.5, path)
    levels = []
    for number, risk in enumerate(([1.0], [0.0], [0.0], [0.2])):
        one.begin(number)
        levels.append(one.level)
        one.smooth(torch.tensor(risk))
    assert levels == pytest.approx([0.0, 1.0, 0.5, 0.25])
    again = Smoother(0.5, path)
    again.begin(2)
    assert again.level == pytest.approx(0.5)
    again.smooth(torch.tensor([0.0]))
    again.begin(3)
    assert again.level == pytest.approx(0.25)


def test_a_smoothed_level_that_was_changed_on_the_disk_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    one = Smoother(0.5, path)
    for number in range(2):
        one.begin(number)
        one.smooth(torch.tensor([1.0]))
    text = path.read_text()
    path.write_text(text + '{"step": 2, "su')  # cut in the middle: of a step that is done again
    again = Smoother(0.5, path)
    again.begin(2)
    assert again.level == pytest.approx(1.0)
    path.write_text(text.replace('"sum": 1.0', '"sum": 0.5', 1))
    with pytest.raises(StoreError) as caught:
        Smoother(0.5, path).begin(2)
    assert str(caught.value) == (
        f"{path}:1: is not as it was written; remove {tmp_path}: that training begins again"
    )


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        ({"low": 0.95}, "schedule.low: 0.95 is above high; put it below"),
        ({"full": 1.0}, "schedule.full: 1 is not above start; put it above"),
        (
            {"kind": "auto", "low": 0.5, "leak": 0.9},
            "schedule.leak: leaves less than low to hold with; lower it",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_one_line(schedule: Any, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        made(schedule=schedule)
    assert str(error.value).endswith(line)
