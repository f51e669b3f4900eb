"""T-Vaccine: how layers are drawn, that the rest stand still, and its gradient in float64."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.nn.test_perturb import compare, twin, twin_gradients

from holdfast.api import Loop, LoRA, Run
from holdfast.data.example import Role, Side
from holdfast.data.pool import Pool
from holdfast.data.tokens import Tokens
from holdfast.defences.t_vaccine import Layers, TVaccine, chances, drawn
from holdfast.defences.vaccine import Vaccine
from holdfast.errors import ConfigError, DataError, ModelError, TrainingError
from holdfast.nn.adapter import lora
from holdfast.nn.passes import packed_passes
from holdfast.nn.vectors import total
from holdfast.testing import tiny
from holdfast.train import harden

ROLES = (Role.REFUSAL, Role.HARMFUL)


def step(cuts: int = 4) -> dict[Role, list[Tokens]]:
    encoder, rows = tiny.encoder(), tiny.rows(n=4)
    return {
        role: [encoder.batch(rows[role][i : i + cuts]) for i in range(0, 4, cuts)] for role in ROLES
    }


def run_of(model: Any, pool: Pool | None = None) -> Run:
    return Run(model, tiny.encoder(), pool or tiny.pool(), 0)


def layer_of(name: str) -> int | None:
    return int(name.split(".")[2]) if name.startswith("model.layers.") else None


# ---- drawing layers


def test_chances_worked_by_hand() -> None:
    """Norms 1, 3, 4 give 1/8, 3/8, 1/2."""
    found = chances(torch.tensor([1.0, 3.0, 4.0]))
    torch.testing.assert_close(found, torch.tensor([0.125, 0.375, 0.5]).double())


def test_a_layer_without_gradient_can_still_be_drawn_last() -> None:
    p = chances(torch.tensor([0.0, 1.0, 0.0]))
    assert float(p.sum()) == pytest.approx(1.0)
    assert all(1 in drawn(p, 2, seed) for seed in range(50))
    assert drawn(p, 3, 0) == (0, 1, 2)


def test_draws_are_distinct_ascending_and_follow_the_chances() -> None:
    p = chances(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert drawn(p, 2, 7) == drawn(p, 2, 7)
    seen: Counter[int] = Counter()
    both: Counter[tuple[int, ...]] = Counter()
    for seed in range(4000):
        picked = drawn(p, 2, seed)
        assert len(set(picked)) == 2
        assert list(picked) == sorted(picked)
        both[picked] += 1
        seen[drawn(p, 1, seed)[0]] += 1
    for layer in range(4):
        assert seen[layer] / 4000 == pytest.approx(float(p[layer]), abs=0.03)
    # one after another: 3 then 2, or 2 then 3
    assert both[2, 3] / 4000 == pytest.approx(0.4 * 0.3 / 0.6 + 0.3 * 0.4 / 0.7, abs=0.03)


@pytest.mark.parametrize("cuts", [4, 1])
def test_chances_are_the_gradient_norms_of_the_first_harmful_row(cuts: int) -> None:
    model = tiny.model("llama", spread=0.3).double()
    found = TVaccine()._measured(model, step(cuts)[Role.HARMFUL])
    one = step(1)[Role.HARMFUL][0]
    norms = [float(g.norm()) for g in twin_gradients(model, one, "attention").values()]
    for p, norm in zip(found.tolist(), norms, strict=True):
        assert p == pytest.approx(norm / sum(norms), rel=1e-5)
    more = TVaccine(measure_rows=3)._measured(model, step(cuts)[Role.HARMFUL])
    assert not torch.allclose(more, found, rtol=1e-3)


def test_shares_of_depth_and_numbers_of_layers() -> None:
    assert [TVaccine().count_of(depth) for depth in (32, 28, 3, 2)] == [8, 7, 1, 1]
    assert TVaccine(layers=1.0).count_of(5) == 5
    assert TVaccine(layers=1).count_of(5) == 1
    assert TVaccine(layers=5).count_of(5) == 5


# ---- the step


def begun(method: TVaccine, model: Any) -> Layers:
    state = method.setup(run_of(model))
    method.on_step(0, state)
    return state


@pytest.mark.parametrize("cuts", [4, 2, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_the_gradient_is_the_twins_on_the_drawn_layers_alone(packed: bool, cuts: int) -> None:
    """The norm is over the drawn layers of a micro-batch; what is frozen has gradient 0."""
    model = tiny.model("llama", spread=0.3).double()
    method = TVaccine(rho=0.7, layers=2)
    state = begun(method, model)
    with packed_passes(packed):
        found, terms = method.gradient(model, step(cuts), state)
    assert state.chosen is not None
    assert len(state.chosen) == 2
    frozen = {n for n in found if layer_of(n) not in (None, *state.chosen)}
    assert frozen == {n for n, p in model.named_parameters() if not p.requires_grad}
    for p in model.parameters():
        p.requires_grad_(True)
    value, expected = twin(model, step(cuts)[Role.REFUSAL], 0.7, layers=state.chosen)
    assert total(terms) == pytest.approx(value, rel=2e-6)
    assert not any(found[name].any() for name in frozen)
    compare(found, {n: torch.zeros_like(e) if n in frozen else e for n, e in expected.items()})


def test_with_all_layers_it_is_vaccine() -> None:
    model = tiny.model("mistral", spread=0.3)
    method = TVaccine(rho=1.5, layers=1.0)
    found, _ = method.gradient(model, step(2), begun(method, model))
    expected, _ = Vaccine(rho=1.5).gradient(model, {Role.REFUSAL: step(2)[Role.REFUSAL]}, None)
    assert tiny.same(found, expected)


@pytest.mark.parametrize(("freeze", "still"), [("block", "mlp"), ("attention", "self_attn")])
def test_what_stands_still(freeze: Any, still: str) -> None:
    model = tiny.model("llama", spread=0.3)
    method = TVaccine(layers=1, freeze=freeze)
    state = begun(method, model)
    found, _ = method.gradient(model, step(), state)
    for name, g in found.items():
        layer = layer_of(name)
        inside = layer is not None and layer not in (state.chosen or ())
        if inside and still in name:
            assert not g.any(), name
        elif not inside or "mlp" in name:  # embeddings, head, and a free MLP learn
            assert g.any(), name


def test_an_adapters_frozen_layers_stand_still_too() -> None:
    model = tiny.model("llama", spread=0.3)
    method = TVaccine(layers=1, rho=0.5)
    state = begun(method, model)
    with lora(model, LoRA(rank=2), 0) as params:
        found, _ = method.gradient(model, step(), state)
        assert found.keys() == params.keys()
        moved = {layer_of(name) for name, g in found.items() if g.any()}
    assert moved == set(state.chosen or ())
    assert all(p.requires_grad for p in model.parameters())


def test_layers_change_when_they_are_due_and_not_before(tmp_path: Path) -> None:
    method = TVaccine(
        layers=1, measure_every=6, draw_every=2, loop=Loop(steps=14, batch=2, lr=0.01)
    )
    model = tiny.model("llama", num_hidden_layers=6)
    harden(method, model, tiny.encoder(), tiny.pool(), seed=0, work=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    draws = [line for line in lines if "layers" in line]
    assert [line["step"] for line in draws] == [1, 3, 5, 7, 9, 11, 13]
    assert len({tuple(line["layers"]) for line in draws}) > 1
    measured = [tuple(line["chances"]) for line in draws]
    assert len(set(measured)) == 3  # at steps 1, 7 and 13
    assert len(set(measured[:3])) == len(set(measured[3:6])) == 1


def test_an_interrupted_run_ends_at_the_same_bits(tmp_path: Path) -> None:
    loop = Loop(steps=8, batch=2, lr=0.01, checkpoint_every=4)
    method = TVaccine(layers=1, rho=0.5, measure_every=4, draw_every=2, loop=loop)

    def stop(_part: str, done: int, _of: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    ends = []
    for work, halts in ((tmp_path / "a", False), (tmp_path / "b", True)):
        if halts:
            with pytest.raises(KeyboardInterrupt):
                harden(
                    method, tiny.model(), tiny.encoder(), tiny.pool(), seed=0, work=work,
                    progress=stop,
                )  # fmt: skip
        model = tiny.model()
        harden(method, model, tiny.encoder(), tiny.pool(), seed=0, work=work)
        ends.append((tiny.weights(model), (work / "log.jsonl").read_text()))
    assert tiny.same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


# ---- what it says


def test_the_diagnostic_is_vaccines_and_needs_no_state() -> None:
    run = run_of(tiny.model(spread=0.3))
    loop = Loop(batch=2)
    found = TVaccine(rho=1.0, loop=loop).diagnostic(run, None)
    assert found == Vaccine(rho=1.0, loop=loop).diagnostic(run, None)
    assert TVaccine.signal in found
    run.pool = Pool([row for some in tiny.rows().values() for row in some])
    assert TVaccine().diagnostic(run, None) == {}


def test_it_reads_the_released_numbers() -> None:
    whole = TVaccine()
    assert (whole.rho, whole.measure_every, whole.draw_every, whole.measure_rows) == (3, 200, 20, 1)
    assert whole.count_of(32) == 8
    assert whole.loop == Loop(
        steps=4000,
        batch=10,
        lr=1e-3,
        schedule="cosine",
        warmup=400,
        weight_decay=0.1,
        decay_norms=False,
    )
    released = TVaccine(preset="released")
    assert (released.layers, released.freeze) == (8, "attention")
    assert (released.n, released.n_harmful) == (2000, 200)


# ---- bad input


def test_layers_beyond_depth_are_told_before_training() -> None:
    with pytest.raises(ModelError) as caught:
        harden(TVaccine(layers=8), tiny.model(), tiny.encoder(), tiny.pool(), seed=0)
    assert str(caught.value) == (
        "t_vaccine.layers: 8 asked for, the model has 3; ask for at most 3, or for a share of depth"
    )


def test_a_checkpoint_between_measurements_is_told() -> None:
    loop = Loop(steps=100, checkpoint_every=30)
    with pytest.raises(ConfigError) as caught:
        TVaccine(measure_every=20, loop=loop).rows(tiny.pool(), 0)
    assert str(caught.value) == (
        "t_vaccine.loop.checkpoint_every: 30 is no multiple of measure_every (20): a run could "
        "not continue with its layers; make it one"
    )
    TVaccine(measure_every=20, loop=loop.with_(steps=30)).rows(tiny.pool(), 0)


@pytest.mark.parametrize("missing", ROLES)
def test_a_role_that_is_absent_is_told(missing: Role) -> None:
    kept = [row for role in ROLES if role is not missing for row in tiny.rows(Side.DEFENDER)[role]]
    with pytest.raises(DataError) as caught:
        harden(TVaccine(), tiny.model(), tiny.encoder(), Pool(kept), seed=0)
    said = f"t_vaccine of role {missing.value}, side defender: no rows; add a "
    assert str(caught.value).startswith(said)


def test_a_harmful_gradient_of_0_is_told() -> None:
    model = tiny.model("llama")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    method = TVaccine()
    with pytest.raises(TrainingError) as caught:
        method.gradient(model, step(), begun(method, model))
    assert str(caught.value) == (
        "t_vaccine: the harmful gradient at the layers' outputs is 0; check the harmful rows and "
        "the precision"
    )


def test_a_perturbation_lost_to_bf16_stops_the_run() -> None:
    model = tiny.model("llama").to(torch.bfloat16)
    method = TVaccine(rho=1e-4)
    with pytest.raises(TrainingError) as caught:
        method.gradient(model, step(), begun(method, model))
    said = str(caught.value)
    assert said.startswith("t_vaccine: lost to rounding (cosine 0.")
    assert said.endswith("); use precision: fp32 or a larger rho")


def test_compiled_layers_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        TVaccine(loop=Loop(compile_layers=True)).rows(tiny.pool(), 0)
    assert str(caught.value) == (
        "t_vaccine.loop.compile_layers: a compiled layer does not see what is added inside it; "
        "turn it off"
    )
